"""Scans of the atlas head, on a grid and elsewhere, and of noise."""

from functools import lru_cache

import numpy as np
from scipy.spatial.transform import Rotation

from rlvo.config.grid import Grid
from rlvo.imaging.alignment.atlas import built_in_atlas
from rlvo.imaging.resampling import resample_to_grid
from rlvo.imaging.volume import Volume


def rigid(angle: float, axis: list[float], shift: list[float]) -> np.ndarray:
    """4×4: a turn by `angle` (rad) about `axis`, then a shift (mm)."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(angle * np.array(axis)).as_matrix()
    matrix[:3, 3] = shift
    return matrix


@lru_cache
def head_on(grid: Grid) -> np.ndarray:
    """The atlas head on a grid, HU, float32 [x, y, z]; read-only."""
    hu = resample_to_grid(built_in_atlas().head, grid, np.eye(4))
    hu.setflags(write=False)
    return hu


def displaced_atlas(displacement: np.ndarray) -> Volume:
    """The atlas head as a scan of 2 mm; `displacement`: 4×4, atlas point to scan point."""
    head = built_in_atlas().head
    affine = displacement @ head.affine @ np.diag([2, 2, 2, 1])
    return Volume(np.asfortranarray(head.array[::2, ::2, ::2]), affine)


def scan() -> Volume:
    """Noise on oblique axes."""
    rng = np.random.default_rng(0)
    affine = rigid(1, [0.1, 0.2, -0.1], [-15, -20, -25]) @ np.diag([1, 1.3, 2, 1])
    return Volume(np.asfortranarray(rng.normal(size=(30, 32, 26)).astype(np.float32)), affine)
