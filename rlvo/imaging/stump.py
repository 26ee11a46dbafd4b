"""The shape of the stump: how the lumen that the CTA shows narrows towards the clot.

A stump that tapers speaks for atherosclerosis, an abrupt end for an embolus (Rodrigo-Gisbert et al. 2024).
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from rlvo.imaging.biomarker_regions import BOX

CAROTID_Z_MM, LOWEST_MM = -25.0, 12
"""The lumen is followed from the carotid, below here: from the fullest voxel of the lowest millimetres of filling."""
STUMP_MM = 10
"""So much of the vessel before the clot is looked at."""
USUAL_MM = 2.8
"""A lumen of this diameter, about M1's, is not narrowed."""
REACH_MM = 3.2
"""Contrast so near to the vessel's course is in it."""
LEAST_HU, FILLED_HU = 10.0, 100.0
"""The course is sought through voxels with at least this filling, at a cost; the lumen is filled from there on."""
SMOOTH = 3
"""The course goes from voxel to voxel: it is smoothed over so many."""


@dataclass(frozen=True, eq=False)
class Stump:
    """The last millimetres before the clot.

    Attributes:
        mask: where they are, bool [x, y, z].
        taper_mm: over how many of them the lumen narrows.
    """

    mask: np.ndarray
    taper_mm: float


def measure_stump(filling: np.ndarray, clot: np.ndarray, near: np.ndarray) -> Stump | None:
    """Follow the lumen from the carotid to the clot, and measure how it narrows; None if it cannot be followed.

    The diameter of each of the last `STUMP_MM` is that of a circle with the area of the contrast there. The sum of what
    they lack of `USUAL_MM`, as shares, is half the taper's length if the lumen narrows evenly to nothing.

    Args:
        filling: CTA above the brain, HU, [x, y, z] on `biomarker_regions.BOX`.
        clot: where the clot is, bool.
        near: the trunk of the affected side, bool.
    """
    looked_at = near | clot
    voxels, hu, in_clot = np.argwhere(looked_at), filling[looked_at], clot[looked_at]
    height, filled = voxels[:, 2] + BOX.origin[2], hu > FILLED_HU
    lowest = height[filled].min(initial=np.inf)
    if lowest > CAROTID_Z_MM:
        return None
    low = np.flatnonzero(filled & (height < lowest + LOWEST_MM))
    course = _course(voxels, hu, int(low[hu[low].argmax()]), in_clot)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(course, axis=0), axis=1))])
    if length[-1] < STUMP_MM:
        return None
    at = np.arange(0, STUMP_MM + 1, 0.25)  # beyond the stump too, so that contrast there is not taken for its
    points = np.stack([np.interp(at, length, axis) for axis in course.T], axis=1)
    _, nearest = cKDTree(points).query(voxels, distance_upper_bound=REACH_MM)
    millimetre = np.append(at, np.inf)[nearest]  # what is near to none has the index after the last
    inside = millimetre < STUMP_MM
    contrast = np.bincount(millimetre[inside].astype(int), hu[inside], minlength=STUMP_MM)
    full = float(np.quantile(hu[filled], 0.95))
    diameter = 2 * np.sqrt(np.clip(contrast / full, 0, None) / np.pi)
    mask = np.zeros(filling.shape, bool)
    mask[tuple(voxels[inside].T)] = True
    return Stump(mask, float(2 * (1 - np.minimum(1, diameter / USUAL_MM)).sum()))


def _course(voxels: np.ndarray, hu: np.ndarray, carotid: int, in_clot: np.ndarray) -> np.ndarray:
    """The way from the clot to a voxel in the carotid, along what is filled most: [P, 3], in voxels of 1 mm."""
    pairs = cKDTree(voxels).query_pairs(1.8, output_type="ndarray")
    cost = (1 / np.maximum(hu, LEAST_HU))[pairs].mean(axis=1)
    steps = np.linalg.norm(voxels[pairs[:, 0]] - voxels[pairs[:, 1]], axis=1) * cost
    graph = csr_array((steps, (pairs[:, 0], pairs[:, 1])), shape=(len(voxels), len(voxels)))
    distance, before = dijkstra(graph, directed=False, indices=carotid, return_predecessors=True)
    clot = np.flatnonzero(in_clot)
    way = [int(clot[distance[clot].argmin()])]
    while way[-1] != carotid and before[way[-1]] >= 0:
        way.append(int(before[way[-1]]))
    return np.asarray(uniform_filter1d(voxels[way].astype(float), SMOOTH, axis=0, mode="nearest"))
