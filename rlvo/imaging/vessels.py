"""The vessel prior from a CTA: bright tubes inside the skull, found where nobody drew a mask.

Bone is taken out first, by the registered NCCT where there is one (matched mask bone elimination, Venema et al.,
Radiology 2001), else by growing from the skull. What is left and bright is graded by how much it resembles a tube.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from rlvo.config.grid import Grid
from rlvo.imaging.atlas import Atlas, sample_mask
from rlvo.imaging.resampling import onto_grid
from rlvo.imaging.volume import AIR, Volume

STEP_MM = 0.8
"""Voxels of the mask: fine enough for M3 branches of 1.2 mm."""
MARGIN_MM = 4.0
"""Skull round the brain that is looked at, to know what is connected to it."""
COARSEST_MM = 2.0

SCALES_MM = (0.8, 1.6)
"""SD of the smoothing; a tube answers most where it is about its radius."""
ALPHA, BETA, GAMMA_HU = 0.5, 0.5, 25.0
"""Frangi's parameters: plates, blobs, and what is weak against them. They tell contrast of some 50 HU from noise."""
SURE, POSSIBLE = 0.5, 0.1
"""Vesselness at which a vessel is begun, and down to which it is followed."""
BRIGHTER_HU, BRIGHTER_SD = 35.0, 4.0
"""A vessel is brighter than the brain's median by both (SD: of the noise), after smoothing at the smallest scale."""
SMALLEST_MM3 = 60.0
TOUCHING = np.ones((3, 3, 3))
INNER_MM, CONTRAST_SPAN_MM = 12.0, 40.0
"""Contrast shows as a connected vessel this long so deep inside the brain. There, calcifications and slivers of bone of
a real head reached 21 mm (34 mm misregistered by 5 mm), synthetic trees 88 mm and more (50 mm in 5 mm slices)."""

NCCT_BONE_HU = 120.0
BONE_EDGE_HU = 120.0
"""Down to here, what is connected to bone is its partly filled edge, as far as the reach."""
NCCT_REACH, SKULL_REACH = 2, 8
"""Voxels. The NCCT shows where bone is; by CTA alone it may lie as far inside the atlas brain as registration errs."""
SKULL_HU, DENSE_HU, DENSE_MM3 = 200.0, 700.0, 1000.0
"""Bone by CTA alone: what is bright outside the brain, or so dense and large that it is no artery."""


@dataclass(frozen=True, eq=False)
class Vessels:
    """What was found in a CTA.

    Attributes:
        mask: in atlas space, float32 0/1; empty without contrast.
        contrast: whether vessels with contrast are seen.
        figures: `vessel_ml`, volume of what looks like vessels; `vessel_span`, mm, how far a connected one
            reaches through the inner brain (contrast from `CONTRAST_SPAN_MM`).
    """

    mask: Volume
    contrast: bool
    figures: Mapping[str, float]


def too_coarse(volume: Volume) -> bool:
    """Whether voxels are too large for arteries to be found."""
    return bool(volume.spacing.max() > COARSEST_MM)


def find_vessels(
    cta: Volume,
    cta_transform: np.ndarray,
    ncct: tuple[Volume, np.ndarray] | None,
    atlas: Atlas,
    *,
    threads: int | None = None,
) -> Vessels:
    """Vessels with contrast inside the skull: arteries, and veins and sinuses that do not touch bone.

    Args:
        cta: HU, registered; `cta_transform`: 4×4 RAS mm, atlas point to scan point.
        ncct: the patient's scan without contrast (never the CTA itself) and its transform.
        threads: for the filter; None: one a core. The result does not depend on it.
    """
    grid = _brain_grid(atlas)
    brain = sample_mask(atlas.brain, atlas.head.affine, grid)
    hu = onto_grid(cta, grid, cta_transform)
    bone = _bone(hu, None if ncct is None else onto_grid(ncct[0], grid, ncct[1]), brain)
    inside = brain & ~bone
    usual = np.median(hu[inside & (hu > 0) & (hu < 100)])
    soft = np.where(bone, usual, np.clip(hu, 0, DENSE_HU))
    smooth = _smoothed(soft, grid.spacing, SCALES_MM[0])
    noise = 1.4826 * np.median(np.abs(smooth[inside] - usual))
    bright = inside & (smooth > usual + max(BRIGHTER_HU, BRIGHTER_SD * noise))
    grade = vesselness(soft, grid.spacing, where=bright, threads=threads)
    mask = _large(ndimage.binary_propagation(grade > SURE, mask=grade > POSSIBLE), SMALLEST_MM3)
    span = _span_mm(mask & _inner_brain(atlas, grid))
    contrast = span >= CONTRAST_SPAN_MM
    figures = {"vessel_ml": float(mask.sum()) * STEP_MM**3 / 1000, "vessel_span": span}
    return Vessels(Volume((mask & contrast).astype(np.float32), grid.affine), contrast, figures)


def vesselness(
    hu: np.ndarray,
    spacing: Sequence[float],
    *,
    where: np.ndarray | None = None,
    scales_mm: Sequence[float] = SCALES_MM,
    threads: int | None = None,
) -> np.ndarray:
    """How much each voxel looks like part of a bright tube, 0–1: Frangi et al., MICCAI 1998, greatest over the scales.

    As SimpleITK's `ObjectnessMeasure` of the smoothed image, but only `where` asked for (bool [x, y, z]; 0 elsewhere):
    that takes a tenth of the time and of the memory, most voxels being too dark to be vessels.

    Args:
        hu: [x, y, z]. spacing: mm, along its axes.
    """
    voxels = np.argwhere(np.ones(hu.shape, dtype=bool) if where is None else where)

    def at_scale(scale: float) -> np.ndarray:
        return _tubeness(scale**2 * _curvatures(_smoothed(hu, spacing, scale), voxels, spacing))

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        greatest = np.max(list(pool.map(at_scale, scales_mm)), axis=0)
    result = np.zeros(hu.shape, dtype=np.float32, order="F")
    result[tuple(voxels.T)] = greatest
    return result


def _curvatures(image: np.ndarray, voxels: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Eigenvalues of the Hessian at `voxels` [N, 3] by central differences, [N, 3], least in magnitude first."""
    padded = np.pad(image, 1, mode="edge")
    steps = np.eye(3, dtype=int)

    def at(offset: np.ndarray) -> np.ndarray:
        return padded[tuple((voxels + 1 + offset).T)]

    hessian = np.empty((len(voxels), 3, 3), dtype=np.float32)
    for i, j in itertools.combinations_with_replacement(range(3), 2):
        both, apart = (steps[i] + steps[j]) // (1 + (i == j)), steps[i] - steps[j]
        differences = at(both) + at(-both) - at(apart) - at(-apart)
        hessian[:, i, j] = hessian[:, j, i] = differences / (spacing[i] * spacing[j] * (1 if i == j else 4))
    values = np.linalg.eigvalsh(hessian)
    return np.take_along_axis(values, np.abs(values).argsort(axis=1, kind="stable"), axis=1)


def _tubeness(curvatures: np.ndarray) -> np.ndarray:
    """Frangi's measure of [N, 3] curvatures in HU: unlike a plate, unlike a blob, not weak, and bright."""
    tube = (curvatures[:, 1] < 0) & (curvatures[:, 2] < 0)
    first, second, third = np.abs(curvatures[tube]).T
    unlike_plate = 1 - np.exp(-((second / third) ** 2) / (2 * ALPHA**2))
    unlike_blob = np.exp(-(first**2 / (second * third)) / (2 * BETA**2))
    strong = 1 - np.exp(-(first**2 + second**2 + third**2) / (2 * GAMMA_HU**2))
    result = np.zeros(len(curvatures), dtype=np.float32)
    result[tube] = unlike_plate * unlike_blob * strong
    return result


def _bone(hu: np.ndarray, plain: np.ndarray | None, brain: np.ndarray) -> np.ndarray:
    """Bone and its edge on the mask's grid, by the NCCT (`plain`) where that has been scanned, else by the CTA."""
    skull = ((hu > SKULL_HU) & ~brain) | _large(hu > DENSE_HU, DENSE_MM3)
    bone = ndimage.binary_dilation(skull, iterations=SKULL_REACH, mask=hu > BONE_EDGE_HU)
    if plain is not None:
        bright = _smoothed(plain, [STEP_MM] * 3, STEP_MM) > NCCT_BONE_HU
        matched = ndimage.binary_dilation(bright, iterations=NCCT_REACH, mask=hu > BONE_EDGE_HU)
        bone = np.where(plain > AIR, matched | bright, bone)
    return ndimage.binary_dilation(bone)


def _large(mask: np.ndarray, least_mm3: float) -> np.ndarray:
    """The connected parts of at least that volume."""
    labels, _ = ndimage.label(mask, TOUCHING)
    return np.asarray((np.bincount(labels.ravel()) * STEP_MM**3 >= least_mm3)[labels] & mask)


def _span_mm(mask: np.ndarray) -> float:
    """Length of the longest diagonal of a box round a connected part."""
    labels, _ = ndimage.label(mask, TOUCHING)
    sides = [[side.stop - side.start for side in box] for box in ndimage.find_objects(labels)]
    return STEP_MM * float(max(np.linalg.norm(each) for each in sides)) if sides else 0.0


def _brain_grid(atlas: Atlas) -> Grid:
    """The grid of the mask: the atlas brain's box and a margin, `STEP_MM`."""
    voxels = np.argwhere(atlas.brain)
    first = voxels.min(axis=0) + atlas.head.affine[:3, 3] - MARGIN_MM
    shape = np.ceil((np.ptp(voxels, axis=0) + 2 * MARGIN_MM) / STEP_MM).astype(int) + 1
    return Grid(shape=tuple(shape.tolist()), spacing=(STEP_MM,) * 3, origin=tuple(first.tolist()))


def _inner_brain(atlas: Atlas, grid: Grid) -> np.ndarray:
    """Brain so deep inside that no skull lies there, were the registration a little off."""
    inner = ndimage.binary_erosion(atlas.brain[::2, ::2, ::2], iterations=round(INNER_MM / 2))
    return sample_mask(inner, atlas.head.affine @ np.diag([2, 2, 2, 1]), grid)


def _smoothed(hu: np.ndarray, spacing: Sequence[float], sd_mm: float) -> np.ndarray:
    image = sitk.GetImageFromArray(hu.T.astype(np.float32, copy=False))
    image.SetSpacing([float(step) for step in spacing])
    return np.asarray(sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(image, sd_mm)).T)
