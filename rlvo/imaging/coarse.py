"""Where a head may lie: mutual information over all coarse rotations and shifts, at 8 mm."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from rlvo.imaging.pyramid import Pyramid

LEVEL_MM = 8.0
ANGLES = (-40.0, -20.0, 0.0, 20.0, 40.0)
"""Degrees about x, y and z, in all combinations."""
SHIFT = 3
"""Largest shift along each axis, voxels, from where the centres meet."""
BINS = 12
STRIDE = 2
"""Every second voxel of the region is compared."""
ENOUGH_OVERLAP = 0.8
"""Share of the region inside the scan below which mutual information is scaled down: small overlaps look alike."""
CANDIDATES = 10
APART_MM = 12.0
"""Candidates move the region's points by at least this much against each other, on average."""


def coarse_candidates(fixed: Pyramid, moving: Pyramid) -> list[np.ndarray]:
    """The best starting transforms (4×4 RAS, fixed point to moving point, rigid), best first, all different."""
    level = fixed.levels[LEVEL_MM]
    voxels = np.argwhere(level.valid)[::STRIDE]
    reference = _binned(level.values.array[tuple(voxels.T)])
    rotations = Rotation.from_euler("xyz", list(itertools.product(ANGLES, repeat=3)), degrees=True).as_matrix()
    shifts = np.array(list(itertools.product(range(-SHIFT, SHIFT + 1), repeat=3)))

    # All shifts of one rotation read the same rotated lattice, at offsets that are constant in its flat index.
    first, last = voxels.min(axis=0) - SHIFT, voxels.max(axis=0) + SHIFT
    shape = tuple(last - first + 1)
    lattice = np.indices(shape).reshape(3, -1).T + first
    from_centre = lattice @ level.values.affine[:3, :3].T + level.values.affine[:3, 3] - fixed.centre
    base = np.ravel_multi_index(tuple((voxels - first).T), shape)
    offsets = shifts @ [shape[1] * shape[2], shape[2], 1]
    scores = []
    for rotation in rotations:
        bins = _sample(moving, from_centre @ rotation.T + moving.centre)
        scores.append(_information(reference, bins[base + offsets[:, None]]))

    points = voxels[::STRIDE] @ level.values.affine[:3, :3].T + level.values.affine[:3, 3]
    chosen: list[np.ndarray] = []
    for index in np.argsort(-np.ravel(scores), kind="stable"):
        which, shift = divmod(int(index), len(shifts))
        transform = np.eye(4)
        transform[:3, :3] = rotations[which]
        transform[:3, 3] = moving.centre + rotations[which] @ (LEVEL_MM * shifts[shift] - fixed.centre)
        if all(mean_distance(transform, other, points) > APART_MM for other in chosen):
            chosen.append(transform)
        if len(chosen) == CANDIDATES:
            break
    return chosen


def mean_distance(a: np.ndarray, b: np.ndarray, points: np.ndarray) -> float:
    """Mean over points [N, 3] of the distance between their images under two transforms, mm."""
    difference = a - b
    return float(np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1).mean())


def _binned(values: np.ndarray) -> np.ndarray:
    return np.minimum((values * BINS).astype(np.int64), BINS - 1)


def _sample(pyramid: Pyramid, points: np.ndarray) -> np.ndarray:
    """Histogram bins at RAS points; `BINS` where the image is not valid."""
    level = pyramid.levels[LEVEL_MM]
    to_voxels = np.linalg.inv(level.values.affine)
    coordinates = (points @ to_voxels[:3, :3].T + to_voxels[:3, 3]).T
    values = ndimage.map_coordinates(level.values.array, coordinates, order=1, cval=0.0)
    valid = ndimage.map_coordinates(level.valid.astype(np.float32), coordinates, order=1, cval=0.0) > 0.5
    return np.where(valid, _binned(values), BINS)


def _information(reference: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Mutual information (nats) of `reference` [N] with each row of `bins` [S, N], scaled down for small overlaps."""
    size = BINS * (BINS + 1)
    cells = bins + reference * (BINS + 1) + size * np.arange(len(bins))[:, None]
    joint = (
        np.bincount(cells.ravel(), minlength=size * len(bins)).reshape(-1, BINS, BINS + 1)[:, :, :BINS].astype(float)
    )
    count = joint.sum(axis=(1, 2))
    joint /= np.maximum(count, 1)[:, None, None]
    information = _entropy(joint.sum(axis=2)) + _entropy(joint.sum(axis=1)) - _entropy(joint.reshape(len(bins), -1))
    return information * np.minimum(1, count / (ENOUGH_OVERLAP * len(reference)))


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    return -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)
