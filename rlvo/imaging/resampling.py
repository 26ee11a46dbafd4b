"""Resampling: sheared axes made orthogonal, and volumes brought onto the grid."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from rlvo.config.grid import Grid
from rlvo.imaging.volume import AIR, RAS_TO_LPS, Volume, from_sitk, set_geometry, to_sitk

SUPERSAMPLING_MM = 1.2
"""Grid voxels larger than this are means over finer samples: at 4 mm a single sample would miss most vessels."""
VESSEL_FRACTION = 0.03
"""Share of a grid voxel that must be vessel for the voxel to count; any vessel counts in a voxel of a single sample
(the paper's grid)."""
TOLERANCE = 1e-3
"""Axes whose cosine is smaller count as orthogonal; an extent that exceeds a whole number of voxels by less does not
count as one more."""


def make_orthogonal(volume: Volume) -> Volume:
    """Return the volume itself if its axes are orthogonal, otherwise resample it (linearly) to axes that are.

    The first two axes span the slices and stay as they are; the third is turned onto their normal (gantry tilt).
    """
    axes = volume.affine[:3, :3] / volume.spacing
    if np.abs(axes.T @ axes - np.eye(3)).max() < TOLERANCE:
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
    shape = tuple(np.floor((high - low) / spacing + 1 + TOLERANCE).astype(int))
    # ITK images cannot have sheared axes: the input's coordinates are its voxels, and the transform holds its geometry.
    in_voxels = Volume(volume.array, np.eye(4))
    to_voxels = np.linalg.inv(volume.affine)
    resampled = resample(in_voxels, affine, shape, to_voxels, outside=float(volume.array.min()))
    return Volume(resampled.array, affine, volume.notes, volume.doubts)


def resample_to_grid(volume: Volume, grid: Grid, transform: np.ndarray) -> np.ndarray:
    """HU on the grid, float32 [x, y, z]; air outside the scan. `transform`: 4×4 RAS mm, atlas point to scan point."""
    return _sample_grid(volume, grid, transform, sitk.sitkLinear, AIR)


def resample_mask_to_grid(mask: Volume, grid: Grid, transform: np.ndarray) -> np.ndarray:
    """A mask on the grid, uint8: nearest neighbour; coarse voxels count if at least `VESSEL_FRACTION` is filled."""
    share = _sample_grid(mask, grid, transform, sitk.sitkNearestNeighbor, 0.0)
    return (share >= VESSEL_FRACTION).astype(np.uint8)


def _sample_grid(volume: Volume, grid: Grid, transform: np.ndarray, interpolator: int, outside: float) -> np.ndarray:
    factors = [math.ceil(step / SUPERSAMPLING_MM) for step in grid.spacing]
    fine = grid.affine @ np.diag([*(1 / factor for factor in factors), 1.0])
    fine[:3, 3] -= [step * (factor - 1) / (2 * factor) for step, factor in zip(grid.spacing, factors, strict=True)]
    shape = [n * factor for n, factor in zip(grid.shape, factors, strict=True)]
    array = resample(volume, fine, shape, transform, interpolator, outside).array
    if factors == [1, 1, 1]:
        return array
    nx, ny, nz = grid.shape
    fx, fy, fz = factors
    return np.asarray(array.reshape(nx, fx, ny, fy, nz, fz).mean(axis=(1, 3, 5)))


def resample(
    volume: Volume,
    affine: np.ndarray,
    shape: Sequence[int],
    transform: np.ndarray,
    interpolator: int = sitk.sitkLinear,
    outside: float = AIR,
) -> Volume:
    """Sample `volume` through `transform` (4×4 RAS, output to volume point) at the voxels of `affine` and `shape`."""
    reference = sitk.Image([int(n) for n in shape], sitk.sitkUInt8)
    set_geometry(reference, affine)
    to_input = to_itk_transform(transform)
    return from_sitk(sitk.Resample(to_sitk(volume), reference, to_input, interpolator, outside, sitk.sitkFloat32))


def to_itk_transform(transform: np.ndarray) -> sitk.AffineTransform:
    """Convert a 4×4 RAS matrix to an ITK transform (LPS)."""
    lps = RAS_TO_LPS @ transform @ RAS_TO_LPS
    return sitk.AffineTransform(lps[:3, :3].ravel().tolist(), lps[:3, 3].tolist())
