"""How much disk a prepared patient takes; without SimpleITK, which planning does without."""

import math

from rlvo.config.grid import Grid

BYTES_PER_VOXEL = 5
"""NCCT and CTA float16, vessels uint8."""


def entry_bytes(grid: Grid) -> int:
    """Size on disk of a patient with NCCT, CTA and vessels (files round up to blocks: 64 KiB in all)."""
    return math.prod(grid.shape) * BYTES_PER_VOXEL + (64 << 10)
