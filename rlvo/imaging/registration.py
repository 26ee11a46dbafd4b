"""Registration of a head CT to the atlas (section 2.2.1), robust against tilted, shifted and cropped scans.

Plain rigid, then affine registration from aligned centres ends in a wrong basin for most tilted heads. So: a coarse
search over rotations and shifts, the best candidates refined from coarse to fine, and kicks that try to leave the basin
found. The measure is Mattes' mutual information throughout. Sampling is seeded and every optimisation has one thread
(several run side by side), so the same volumes give the same transform, bit by bit, on any number of cores.

Transforms are 4×4 matrices in RAS mm that take a point of the atlas to the point of the scan.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from rlvo.errors import RlvoError
from rlvo.imaging.atlas import Atlas
from rlvo.imaging.coarse import coarse_candidates
from rlvo.imaging.pyramid import UNIT_MM, Pyramid, atlas_pyramid, head_pyramid, masked_pyramid
from rlvo.imaging.volume import RAS_TO_LPS, Volume

REGISTRATION_VERSION = 1

BINS = 16
"""More bins make mutual information rugged at 8 mm (some 7,000 samples)."""
SAMPLED = {8.0: 1.0, 4.0: 0.1, 2.0: 0.1}
"""Share of the region's voxels used at each level, regularly spaced."""
STEP_MM = (2.0, 0.05)
"""First and smallest step of the optimiser."""
ITERATIONS = 60
KICK_DEGREES, KICK_MM, KICKS = 8.0, 8.0, (1.0, 0.5)
"""Kicks in full size, then in half."""

Kind = Literal["rigid", "affine"]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A transform and the mutual information (nats) it reached."""

    transform: np.ndarray
    information: float


def register_cta(cta: Volume, atlas: Atlas, *, threads: int | None = None) -> np.ndarray:
    """Atlas to scan, rigid then affine; also for an NCCT that comes without CTA.

    Raises:
        RlvoError: no head in the volume, or nothing of it fits the atlas. Whether the result is good, `assess` tells.
    """
    return align(atlas_pyramid(atlas), head_pyramid(cta), threads=threads)


def register_ncct(
    ncct: Volume, cta: Volume, cta_transform: np.ndarray, atlas: Atlas, *, threads: int | None = None
) -> np.ndarray:
    """Atlas to NCCT by way of the registered CTA. Both scans often share the scanner's frame: that is tried too."""
    fixed = masked_pyramid(cta, atlas, cta_transform)
    return align(fixed, head_pyramid(ncct), start=np.eye(4), threads=threads) @ cta_transform


def align(
    fixed: Pyramid, moving: Pyramid, *, start: np.ndarray | None = None, threads: int | None = None
) -> np.ndarray:
    """The affine transform, fixed point to moving point, of greatest mutual information that the search finds."""
    candidates = coarse_candidates(fixed, moving)
    if start is not None:
        candidates.append(start)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:

        def refine(level: float, kind: Kind, transforms: Iterable[np.ndarray]) -> list[Candidate]:
            found = pool.map(partial(optimise, fixed, moving, level, kind), transforms)
            return sorted((each for each in found if each is not None), key=lambda each: -each.information)

        found = refine(8.0, "rigid", candidates)
        found = refine(4.0, "rigid", (each.transform for each in found[:5]))
        found = refine(4.0, "affine", (each.transform for each in found[:2]))
        if not found:
            raise RlvoError("does not overlap the atlas anywhere", fix="Give a head CT")
        best = found[0]
        for size in KICKS:
            kicked = refine(4.0, "affine", (best.transform @ kick for kick in _kicks(fixed.centre, size)))
            best = max([best, *kicked[:1]], key=lambda each: each.information)
        final = optimise(fixed, moving, 2.0, "affine", best.transform)
    return final.transform if final is not None else best.transform


def _kicks(centre: np.ndarray, size: float) -> list[np.ndarray]:
    """Turns about and shifts along each axis, both ways, about the centre of the fixed image."""
    kicks = []
    for axis in np.vstack([np.eye(3), -np.eye(3)]):
        turn, shift = np.eye(4), np.eye(4)
        turn[:3, :3] = Rotation.from_rotvec(np.radians(KICK_DEGREES * size) * axis).as_matrix()
        turn[:3, 3] = centre - turn[:3, :3] @ centre
        shift[:3, 3] = KICK_MM * size * axis
        kicks += [turn, shift]
    return kicks


def optimise(fixed: Pyramid, moving: Pyramid, level: float, kind: Kind, transform: np.ndarray) -> Candidate | None:
    """Improve `transform` at one resolution, mm. None where the images do not overlap enough to be compared."""
    centre = fixed.centre * [-1, -1, 1] / UNIT_MM
    free = sitk.Euler3DTransform() if kind == "rigid" else sitk.AffineTransform(3)
    _set_matrix(free, transform, centre)
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
        numberOfIterations=ITERATIONS,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-7,
    )
    method.SetInitialTransform(free, inPlace=True)
    try:
        method.Execute(fixed.images[level], moving.images[level])
    except RuntimeError:  # ITK: too few samples map inside the moving image
        return None
    return Candidate(_matrix(free), -method.GetMetricValue())


def nearest_rotation(linear: np.ndarray) -> np.ndarray:
    """The rotation nearest to a 3×3 matrix of positive determinant (polar decomposition)."""
    left, _, right = np.linalg.svd(linear)
    return np.asarray(left @ right)


def _set_matrix(itk: sitk.Transform, transform: np.ndarray, centre: np.ndarray) -> None:
    """Give an ITK transform (LPS, units of UNIT_MM) the value of a RAS mm matrix; a rigid one its nearest rotation."""
    lps = RAS_TO_LPS @ transform @ RAS_TO_LPS
    linear, shift = lps[:3, :3], lps[:3, 3] / UNIT_MM
    at_centre = linear @ centre + shift
    if isinstance(itk, sitk.Euler3DTransform):
        linear = nearest_rotation(linear)
    itk.SetCenter(centre.tolist())
    itk.SetMatrix(linear.ravel().tolist())
    itk.SetTranslation((at_centre - centre).tolist())


def _matrix(itk: sitk.Transform) -> np.ndarray:
    """The RAS mm matrix of an ITK transform (LPS, units of UNIT_MM)."""
    centre = np.array(itk.GetCenter())
    lps = np.eye(4)
    lps[:3, :3] = np.array(itk.GetMatrix()).reshape(3, 3)
    lps[:3, 3] = (centre + itk.GetTranslation() - lps[:3, :3] @ centre) * UNIT_MM
    return RAS_TO_LPS @ lps @ RAS_TO_LPS
