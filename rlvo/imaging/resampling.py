"""Resampling: sheared axes made orthogonal, and a volume brought onto the grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from rlvo.config.grid import Grid
from rlvo.imaging.volume import AIR, RAS_TO_LPS, Volume, from_sitk, place, to_sitk

SUPERSAMPLING_MM = 1.2
"""Grid voxels larger than this are means over finer samples: at 4 mm a single sample would miss most vessels."""
VESSEL_FRACTION = 0.03
"""Share of a grid voxel that vessel must fill to count; one sample a voxel: any (the paper's grid)."""


def orthogonal(volume: Volume, tolerance: float = 1e-3) -> Volume:
    """The volume itself where its axes are orthogonal, else resampled (linearly) to axes that are.

    The first two axes span the slices and stay as they are; the third is turned onto their normal (gantry tilt).
    """
    axes = volume.affine[:3, :3] / volume.spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() < tolerance:
        return volume
    x = axes[:, 0]
    y = axes[:, 1] - (axes[:, 1] @ x) * x
    y /= np.linalg.norm(y)
    z = np.cross(x, y) * np.sign(np.linalg.det(axes))
    frame = np.column_stack([x, y, z])
    sizes = np.array(volume.array.shape)
    corners = np.array(list(itertools.product(*((0, n - 1) for n in sizes)))) @ volume.affine[:3, :3].T
    low, high = (corners @ frame).min(axis=0), (corners @ frame).max(axis=0)
    spacing = np.array([volume.spacing[0], volume.spacing[1], abs(volume.affine[:3, 2] @ z)])
    affine = np.eye(4)
    affine[:3, :3] = frame * spacing
    affine[:3, 3] = volume.affine[:3, 3] + frame @ low
    shape = tuple(np.floor((high - low) / spacing + 1 + tolerance).astype(int))
    # ITK knows no sheared axes: the input is given in voxels, and the transform holds its geometry.
    in_voxels = Volume(volume.array, np.eye(4))
    to_voxels = np.linalg.inv(volume.affine)
    resampled = resample(in_voxels, affine, shape, to_voxels, outside=float(volume.array.min()))
    return Volume(resampled.array, affine, volume.notes, volume.doubts)


def onto_grid(volume: Volume, grid: Grid, transform: np.ndarray) -> np.ndarray:
    """HU on the grid, float32 [x, y, z]; air outside the scan. `transform`: 4×4 RAS mm, atlas point to scan point."""
    return _onto_grid(volume, grid, transform, sitk.sitkLinear, AIR)


def mask_onto_grid(mask: Volume, grid: Grid, transform: np.ndarray) -> np.ndarray:
    """A mask on the grid, uint8: nearest neighbour, and where voxels are coarse, those filled to `VESSEL_FRACTION`."""
    share = _onto_grid(mask, grid, transform, sitk.sitkNearestNeighbor, 0.0)
    return (share >= VESSEL_FRACTION).astype(np.uint8)


def _onto_grid(volume: Volume, grid: Grid, transform: np.ndarray, interpolator: int, outside: float) -> np.ndarray:
    factors = [math.ceil(step / SUPERSAMPLING_MM) for step in grid.spacing]
    fine = grid.affine @ np.diag([*(1 / factor for factor in factors), 1.0])
    fine[:3, 3] -= [step * (factor - 1) / (2 * factor) for step, factor in zip(grid.spacing, factors, strict=True)]
    shape = [n * factor for n, factor in zip(grid.shape, factors, strict=True)]
    array = resample(volume, fine, shape, transform, interpolator, outside).array
    if factors == [1, 1, 1]:
        return array
    nx, ny, nz = grid.shape
    fx, fy, fz = factors
    return array.reshape(nx, fx, ny, fy, nz, fz).mean(axis=(1, 3, 5))


def resample(
    volume: Volume,
    affine: np.ndarray,
    shape: Sequence[int],
    transform: np.ndarray,
    interpolator: int = sitk.sitkLinear,
    outside: float = AIR,
) -> Volume:
    """`volume` seen through `transform` (4×4 RAS, output point to volume point) at the voxels of `affine`, `shape`."""
    reference = sitk.Image([int(n) for n in shape], sitk.sitkUInt8)
    place(reference, affine)
    image = sitk.Resample(to_sitk(volume), reference, to_itk(transform), interpolator, outside, sitk.sitkFloat32)
    return from_sitk(image)


def to_itk(transform: np.ndarray) -> sitk.AffineTransform:
    """A 4×4 RAS matrix as an ITK transform (LPS)."""
    lps = RAS_TO_LPS @ transform @ RAS_TO_LPS
    return sitk.AffineTransform(lps[:3, :3].ravel().tolist(), lps[:3, 3].tolist())
