"""Registration of a head CT to the atlas (section 2.2.1), robust against tilted, shifted and cropped scans.

Plain rigid, then affine registration from aligned centres ends in a wrong optimum for most tilted heads. Hence a coarse
search over rotations and shifts, refinement of the best candidates from coarse to fine, and kicks that try to leave the
optimum found. The measure is Mattes' mutual information throughout. Sampling is seeded and each optimisation runs in a
single thread (several run side by side): the same volumes give the same transform, bit by bit, on any number of cores.

Transforms are 4×4 matrices in RAS mm that take a point of the atlas to a point of the scan.
"""

import itertools
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from rlvo.errors import RlvoError
from rlvo.imaging.alignment.atlas import Atlas
from rlvo.imaging.alignment.pyramid import UNIT_MM, Pyramid, atlas_pyramid, head_pyramid, masked_pyramid
from rlvo.imaging.volume import RAS_TO_LPS, Volume

REGISTRATION_VERSION = 1
"""Increased if scans are placed noticeably elsewhere, by more than the 1 mm or so that copies of one head differ by:
stored volumes are then prepared again, and a study that was started on them cannot go on."""

COARSE_MM = 8.0
ANGLES = (-40.0, -20.0, 0.0, 20.0, 40.0)
"""Degrees about x, y and z, in all combinations."""
MAX_SHIFT = 3
"""Largest shift along each axis, voxels, from coinciding centres."""
COARSE_BINS = 12
STRIDE = 2
"""Every second voxel of the region is compared."""
ENOUGH_OVERLAP = 0.8
"""If less than this share of the region is inside the scan, mutual information is scaled down: small overlaps look
alike."""
CANDIDATES = 10
APART_MM = 12.0
"""Candidates move the region's points by at least this much against each other, on average."""

BINS = 16
"""More bins make mutual information rugged at 8 mm (about 7,000 samples)."""
SAMPLED = {8.0: 0.3, 4.0: 0.1, 2.0: 0.05}
"""Share of the region's voxels used at each level, regularly spaced."""
STEP_MM = (2.0, 0.05)
"""First and smallest step of the optimiser."""
ITERATIONS, GLANCE = 60, 15
"""Most steps of an optimisation; after a glance the best of several is known, and goes on alone."""
KICK_DEGREES, KICK_MM, KICKS = 8.0, 8.0, (1.0, 0.5)
"""Kicks at full size, then at half."""

Kind = Literal["rigid", "affine"]


@dataclass(frozen=True, eq=False)
class RegisteredScan:
    """A scan and its transform: 4×4 RAS mm, atlas point to scan point."""

    scan: Volume
    transform: np.ndarray


@dataclass(frozen=True, eq=False)
class Candidate:
    """A transform and the mutual information (nats) it reached."""

    transform: np.ndarray
    information: float


def register_cta(cta: Volume, atlas: Atlas, *, threads: int | None = None) -> np.ndarray:
    """Register a scan to the atlas, rigid then affine: a CTA, or an NCCT without CTA. `assess` says how well it fits.

    Raises RlvoError if there is no head in the volume, or nothing of it overlaps the atlas.
    """
    return align(atlas_pyramid(atlas), head_pyramid(cta), threads=threads)


def register_ncct(ncct: Volume, cta: RegisteredScan, atlas: Atlas, *, threads: int | None = None) -> np.ndarray:
    """Register an NCCT to the atlas through the registered CTA; the two often share a frame, which is also tried."""
    fixed = masked_pyramid(cta.scan, atlas, cta.transform)
    return np.asarray(align(fixed, head_pyramid(ncct), start=np.eye(4), threads=threads) @ cta.transform)


def align(
    fixed: Pyramid, moving: Pyramid, *, start: np.ndarray | None = None, threads: int | None = None
) -> np.ndarray:
    """Search for the affine transform, fixed point to moving point, of greatest mutual information."""
    candidates = coarse_candidates(fixed, moving)
    if start is not None:
        candidates.append(start)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:

        def refine(
            level: float, kind: Kind, transforms: Iterable[np.ndarray], iterations: int = ITERATIONS
        ) -> list[Candidate]:
            found = pool.map(partial(optimise, fixed, moving, level, kind, iterations=iterations), transforms)
            return sorted((each for each in found if each is not None), key=lambda each: -each.information)

        found = refine(8.0, "rigid", candidates)
        found = refine(4.0, "rigid", (each.transform for each in found[:5]), GLANCE)
        found = refine(4.0, "affine", (each.transform for each in found[:2]))
        if not found:
            raise RlvoError("the scan does not overlap the atlas anywhere", fix="Give a head CT")
        best = found[0]
        for size in KICKS:
            kicks = make_kicks(fixed.centre, size)
            kicked = refine(4.0, "affine", (best.transform @ kick for kick in kicks), GLANCE)
            kicked = refine(4.0, "affine", (each.transform for each in kicked[:1]))
            best = max([best, *kicked], key=lambda each: each.information)
        final = optimise(fixed, moving, 2.0, "affine", best.transform)
    return final.transform if final is not None else best.transform


def coarse_candidates(fixed: Pyramid, moving: Pyramid) -> list[np.ndarray]:
    """Find the best starting transforms (4×4 RAS, rigid, fixed point to moving point), best first, all different."""
    level = fixed.levels[COARSE_MM]
    voxels = np.argwhere(level.valid)[::STRIDE]
    reference = _bin_values(level.values.array[tuple(voxels.T)])
    rotations = Rotation.from_euler("xyz", list(itertools.product(ANGLES, repeat=3)), degrees=True).as_matrix()
    shifts = np.array(list(itertools.product(range(-MAX_SHIFT, MAX_SHIFT + 1), repeat=3)))

    # All shifts of one rotation read the same rotated lattice, at constant offsets in its flat index.
    first, last = voxels.min(axis=0) - MAX_SHIFT, voxels.max(axis=0) + MAX_SHIFT
    shape = tuple(last - first + 1)
    lattice = np.indices(shape).reshape(3, -1).T + first
    from_centre = lattice @ level.values.affine[:3, :3].T + level.values.affine[:3, 3] - fixed.centre
    base = np.ravel_multi_index(tuple((voxels - first).T), shape)
    places = base + (shifts @ [shape[1] * shape[2], shape[2], 1])[:, None]
    cells = _cells(reference, len(shifts))
    scores = []
    for rotation in rotations:
        bins = _sample_bins(moving, from_centre @ rotation.T + moving.centre)
        scores.append(_information(cells, bins[places]))

    points = voxels[::STRIDE] @ level.values.affine[:3, :3].T + level.values.affine[:3, 3]
    chosen: list[np.ndarray] = []
    for index in np.argsort(-np.ravel(scores), kind="stable"):
        which, shift = divmod(int(index), len(shifts))
        transform = np.eye(4)
        transform[:3, :3] = rotations[which]
        transform[:3, 3] = moving.centre + rotations[which] @ (COARSE_MM * shifts[shift] - fixed.centre)
        if all(mean_distance(transform, other, points) > APART_MM for other in chosen):
            chosen.append(transform)
        if len(chosen) == CANDIDATES:
            break
    return chosen


def mean_distance(a: np.ndarray, b: np.ndarray, points: np.ndarray) -> float:
    """Average, over points [N, 3], the distance between their images under two transforms, mm."""
    difference = a - b
    return float(np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1).mean())


def _bin_values(values: np.ndarray) -> np.ndarray:
    return np.minimum((values * COARSE_BINS).astype(np.int64), COARSE_BINS - 1)


def _sample_bins(pyramid: Pyramid, points: np.ndarray) -> np.ndarray:
    """Return histogram bins at RAS points; `COARSE_BINS` where the image is not valid."""
    level = pyramid.levels[COARSE_MM]
    to_voxels = np.linalg.inv(level.values.affine)
    coordinates = (points @ to_voxels[:3, :3].T + to_voxels[:3, 3]).T
    values = ndimage.map_coordinates(level.values.array, coordinates, order=1, cval=0.0)
    valid = ndimage.map_coordinates(level.valid.astype(np.float32), coordinates, order=1, cval=0.0) > 0.5
    return np.where(valid, _bin_values(values), COARSE_BINS)


def _cells(reference: np.ndarray, shifts: int) -> np.ndarray:
    """Return, by shift and voxel [S, N], the first cell of the joint histograms [S, bins, bins + 1] for `reference`."""
    size = COARSE_BINS * (COARSE_BINS + 1)
    return np.asarray(reference * (COARSE_BINS + 1) + size * np.arange(shifts)[:, None])


def _information(cells: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Compute mutual information (nats) of the reference with each row of `bins`, less for small overlaps."""
    size = COARSE_BINS * (COARSE_BINS + 1)
    filled = np.bincount((cells + bins).ravel(), minlength=size * len(bins))
    counts = filled.reshape(-1, COARSE_BINS, COARSE_BINS + 1)
    joint = counts[:, :, :COARSE_BINS].astype(float)
    count = joint.sum(axis=(1, 2))
    joint /= np.maximum(count, 1)[:, None, None]
    information = _entropy(joint.sum(axis=2)) + _entropy(joint.sum(axis=1)) - _entropy(joint.reshape(len(bins), -1))
    return np.asarray(information * np.minimum(1, count / (ENOUGH_OVERLAP * bins.shape[1])))


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(-(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1))


def make_kicks(centre: np.ndarray, size: float) -> list[np.ndarray]:
    """Return rotations about and shifts along each axis, both ways, about the centre of the fixed image."""
    kicks = []
    for axis in np.vstack([np.eye(3), -np.eye(3)]):
        turn, shift = np.eye(4), np.eye(4)
        turn[:3, :3] = Rotation.from_rotvec(np.radians(KICK_DEGREES * size) * axis).as_matrix()
        turn[:3, 3] = centre - turn[:3, :3] @ centre
        shift[:3, 3] = KICK_MM * size * axis
        kicks += [turn, shift]
    return kicks


def optimise(
    fixed: Pyramid,
    moving: Pyramid,
    level: float,
    kind: Kind,
    transform: np.ndarray,
    *,
    iterations: int = ITERATIONS,
) -> Candidate | None:
    """Improve `transform` at one resolution, mm. None if the images do not overlap enough to be compared."""
    centre = fixed.centre * [-1, -1, 1] / UNIT_MM
    free = sitk.Euler3DTransform() if kind == "rigid" else sitk.AffineTransform(3)
    set_matrix(free, transform, centre)
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    if SAMPLED[level] < 1:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(SAMPLED[level], 1)
    method.SetMetricFixedMask(fixed.masks[level])
    method.SetMetricMovingMask(moving.masks[level])
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=STEP_MM[0] / UNIT_MM,
        minStep=STEP_MM[1] / UNIT_MM,
        numberOfIterations=iterations,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-7,
    )
    method.SetInitialTransform(free, inPlace=True)
    try:
        method.Execute(fixed.images[level], moving.images[level])
    except RuntimeError:  # ITK: too few samples map inside the moving image
        return None
    return Candidate(get_matrix(free), -method.GetMetricValue())


def nearest_rotation(linear: np.ndarray) -> np.ndarray:
    """Return the rotation nearest to a 3×3 matrix of positive determinant (polar decomposition)."""
    left, _, right = np.linalg.svd(linear)
    return np.asarray(left @ right)


def set_matrix(itk: sitk.Transform, transform: np.ndarray, centre: np.ndarray) -> None:
    """Set an ITK transform (LPS, units of UNIT_MM) to a RAS mm matrix; a rigid one to the nearest rotation."""
    lps = RAS_TO_LPS @ transform @ RAS_TO_LPS
    linear, shift = lps[:3, :3], lps[:3, 3] / UNIT_MM
    at_centre = linear @ centre + shift
    if isinstance(itk, sitk.Euler3DTransform):
        linear = nearest_rotation(linear)
    itk.SetCenter(centre.tolist())
    itk.SetMatrix(linear.ravel().tolist())
    itk.SetTranslation((at_centre - centre).tolist())


def get_matrix(itk: sitk.Transform) -> np.ndarray:
    """Return the RAS mm matrix of an ITK transform (LPS, units of UNIT_MM)."""
    centre = np.array(itk.GetCenter())
    lps = np.eye(4)
    lps[:3, :3] = np.array(itk.GetMatrix()).reshape(3, 3)
    lps[:3, 3] = (centre + itk.GetTranslation() - lps[:3, :3] @ centre) * UNIT_MM
    return RAS_TO_LPS @ lps @ RAS_TO_LPS
