"""Shapes in millimetres, drawn as volume fractions on a grid."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from rlvo.config.grid import Grid

SPREAD_VOXELS = 0.6
_OFFSETS = np.arange(-2, 3)
_PAD = 4
_BLOCK = 20_000


def splat(grid: Grid, position: np.ndarray, volume: np.ndarray) -> np.ndarray:
    """Volume fractions [K, x, y, z] of K sets of point volumes [K, M] (mm³) at `position` [M, 3] (RAS mm).

    Each point becomes a Gaussian with an SD of 0.6 voxels that keeps the point's volume.
    """
    index = (position - np.array(grid.origin)) / np.array(grid.spacing)
    near = np.flatnonzero(np.all((index > -2.4) & (index < np.array(grid.shape) + 1.4), axis=1))
    shape = np.array(grid.shape) + 2 * _PAD
    total = np.zeros((len(volume), int(np.prod(shape))))
    for block in np.array_split(near, len(near) // _BLOCK + 1):
        cells = np.rint(index[block]).astype(int)[:, :, None] + _OFFSETS
        kernel = np.exp(-0.5 * ((cells - index[block][:, :, None]) / SPREAD_VOXELS) ** 2)
        kernel /= kernel.sum(axis=2, keepdims=True)
        weight = np.einsum("ni,nj,nk->nijk", *np.moveaxis(kernel, 1, 0))
        x, y, z = np.moveaxis(cells + _PAD, 1, 0)
        flat = (x[:, :, None, None] * shape[1] + y[:, None, :, None]) * shape[2] + z[:, None, None, :]
        for row, amount in zip(total, volume[:, block], strict=True):
            row += np.bincount(flat.ravel(), (weight * amount[:, None, None, None]).ravel(), minlength=row.size)
    crop = slice(_PAD, -_PAD)
    return total.reshape(-1, *shape)[:, crop, crop, crop] / np.prod(grid.spacing)


def cross_sections(
    position: np.ndarray, tangent: np.ndarray, radius: np.ndarray, spacing: float
) -> tuple[np.ndarray, int]:
    """Points spread over the discs around centre-line points, [N × copies, 3], and `copies`.

    If voxels are as large as the widest vessel (4 mm), the centre line alone represents it.
    """
    copies = int(np.ceil((2 * radius.max() / spacing) ** 2))
    if copies == 1:
        return position, 1
    # The golden angle spreads points evenly; each disc is rotated, so that the points of neighbours do not line up.
    turn = np.arange(copies) * np.pi * (3 - np.sqrt(5)) + np.arange(len(radius))[:, None]
    offset = radius[:, None] * np.sqrt((np.arange(copies) + 0.5) / copies)
    normal = np.cross(tangent, np.eye(3)[np.abs(tangent).argmin(axis=1)])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    binormal = np.cross(tangent, normal)
    across = (offset * np.cos(turn))[:, :, None] * normal[:, None]
    along = (offset * np.sin(turn))[:, :, None] * binormal[:, None]
    points = position[:, None] + across + along
    return points.reshape(-1, 3), copies


def ellipsoid(
    grid: Grid, coordinates: Sequence[np.ndarray], centre: Sequence[float], radii: Sequence[float]
) -> np.ndarray:
    """Volume fraction [x, y, z] of an ellipsoid with an edge one voxel wide; `coordinates` in mm."""
    parts = zip(coordinates, centre, radii, strict=True)
    distance = sum(((coordinate - np.float32(c)) / np.float32(r)) ** 2 for coordinate, c, r in parts)
    voxels = np.float32(np.cbrt(np.prod(radii) / np.prod(grid.spacing)))
    return np.asarray(np.clip((1 - np.sqrt(distance)) * voxels + np.float32(0.5), 0, 1))


@lru_cache(maxsize=2)
def grid_axes(grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxel centres (RAS mm) along x, y and z, in shapes that broadcast to [x, y, z]."""
    steps = zip(grid.origin, grid.spacing, grid.shape, strict=True)
    x, y, z = np.ix_(*(np.float32(first + step * np.arange(count)) for first, step, count in steps))
    return x, y, z
