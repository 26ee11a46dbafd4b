"""What can be said of a volume before and beside its registration: is it a head CT in HU, is there contrast in it?"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from rlvo.config.grid import ATLAS_FIRST_VOXEL, ATLAS_SHAPE, Grid
from rlvo.errors import RlvoError
from rlvo.imaging.atlas import brain_mask
from rlvo.imaging.resampling import onto_grid
from rlvo.imaging.volume import Volume

MIN_EXTENT_MM = 60.0
MIN_SHARE = 0.002
"""Least share of air, and of soft tissue, among a CT's voxels."""
AIR_HU = (-1100.0, -700.0)
TISSUE_HU = (0.0, 100.0)

CONTRAST_HU = 150.0
CONTRAST_MARGIN_MM = 5
MIN_CONTRAST = 0.001
"""Share of the inner brain above 150 HU that vessels with contrast exceed; calcifications stay at a fifth of it."""

INNER_BRAIN_GRID = Grid(shape=ATLAS_SHAPE, spacing=(1, 1, 1), origin=ATLAS_FIRST_VOXEL)


def check_head_ct(volume: Volume, where: str | None) -> None:
    """Raise RlvoError where a volume is too small for a head or is not in HU."""
    extent = volume.spacing * volume.array.shape
    if extent.min() < MIN_EXTENT_MM:
        text = "×".join(f"{length:.0f}" for length in extent)
        raise RlvoError(f"too small for a head ({text} mm)", where=where, fix="Give the whole head CT")
    for name, (low, high) in (("air near −1000", AIR_HU), ("soft tissue at 0–100", TISSUE_HU)):
        if ((volume.array >= low) & (volume.array <= high)).mean() < MIN_SHARE:
            fix = "Export the original CT in HU, with the air around the head and the bone in it"
            raise RlvoError(f"no {name} HU in it, so it is not a head CT in HU", where=where, fix=fix)


def has_contrast(cta: Volume, transform: np.ndarray) -> bool:
    """Whether vessels with contrast are seen in the inner brain of a registered CTA, at 1 mm."""
    inner = ndimage.binary_erosion(brain_mask(INNER_BRAIN_GRID), iterations=CONTRAST_MARGIN_MM)
    hu = onto_grid(cta, INNER_BRAIN_GRID, transform)
    return bool((hu[inner] > CONTRAST_HU).mean() >= MIN_CONTRAST)
