"""The vessel prior from a CTA: bright tubes inside the skull, for patients without a vessel mask.

Bone is removed first: by the registered NCCT if there is one (matched mask bone elimination, Venema et al., Radiology
2001), otherwise by growing from the skull. Bright voxels that remain are graded by how much they resemble a tube.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from rlvo.config.grid import Grid
from rlvo.imaging.alignment.atlas import Atlas, sample_mask
from rlvo.imaging.alignment.registration import RegisteredScan
from rlvo.imaging.resampling import resample_to_grid
from rlvo.imaging.volume import AIR, Volume

STEP_MM = 0.8
"""Voxels of the mask: fine enough for M3 branches of 1.2 mm."""
MARGIN_MM = 4.0
"""Margin of skull around the brain, needed to know what is connected to it."""
COARSEST_MM = 2.0

SCALES_MM = (0.8, 1.6)
"""SD of the smoothing; the response to a tube is greatest if it is about its radius."""
ALPHA, BETA, GAMMA_HU = 0.5, 0.5, 25.0
"""Frangi's parameters, against plates, blobs and weak structures. They tell contrast of about 50 HU from noise."""
SURE, POSSIBLE = 0.5, 0.1
"""Vesselness from which a vessel is started, and down to which it is followed."""
BRIGHTER_HU, BRIGHTER_SD = 35.0, 4.0
"""A vessel exceeds the brain's median by both (SD: of the noise), after smoothing at the smallest scale."""
SMALLEST_MM3 = 60.0
TOUCHING = np.ones((3, 3, 3))
INNER_MM, CONTRAST_SPAN_MM = 12.0, 40.0
"""A scan has contrast if a connected vessel is this long at this depth inside the brain. There, calcifications and
slivers of bone of a real head reached 21 mm (34 mm if misregistered by 5 mm), synthetic trees at least 88 mm (50 mm in
5 mm slices)."""

NCCT_BONE_HU = 120.0
BONE_EDGE_HU = 120.0
"""Voxels above this that are connected to bone, within the reach, are its partly filled edge."""
NCCT_REACH, SKULL_REACH = 2, 8
"""Voxels. The NCCT shows where bone is; by CTA alone, bone may be as deep in the atlas brain as registration errs."""
SKULL_HU, DENSE_HU, DENSE_MM3 = 200.0, 700.0, 1000.0
"""Bone by CTA alone: bright and outside the brain, or too dense and large for an artery."""


@dataclass(frozen=True, eq=False)
class Vessels:
    """Vessels found in a CTA.

    Attributes:
        mask: in atlas space, float32 0/1; empty without contrast.
        contrast: whether it shows vessels with contrast.
        figures: `vessel_ml`, volume of everything that looks like vessels; `vessel_span`, mm, the longest extent of a
            connected one in the inner brain (contrast from `CONTRAST_SPAN_MM`).
    """

    mask: Volume
    contrast: bool
    figures: Mapping[str, float]


def too_coarse(volume: Volume) -> bool:
    """Whether voxels are too large to find arteries."""
    return bool(volume.spacing.max() > COARSEST_MM)


def find_vessels(
    cta: RegisteredScan, ncct: RegisteredScan | None, atlas: Atlas, *, threads: int | None = None
) -> Vessels:
    """Find vessels with contrast inside the skull: arteries, and veins and sinuses that do not touch bone.

    `ncct` is never the CTA itself. The result does not depend on `threads` (None: one per core).
    """
    grid = _brain_grid(atlas)
    brain = sample_mask(atlas.brain, atlas.head.affine, grid)
    hu = resample_to_grid(cta.scan, grid, cta.transform)
    bone = _find_bone(hu, resample_to_grid(ncct.scan, grid, ncct.transform) if ncct else None, brain)
    inside = brain & ~bone
    usual = np.median(hu[inside & (hu > 0) & (hu < 100)])
    soft = np.where(bone, usual, np.clip(hu, 0, DENSE_HU))
    smooth = _smooth(soft, grid.spacing, SCALES_MM[0])
    noise = 1.4826 * np.median(np.abs(smooth[inside] - usual))
    bright = inside & (smooth > usual + max(BRIGHTER_HU, BRIGHTER_SD * noise))
    grade = vesselness(soft, grid.spacing, bright, threads=threads)
    mask = _keep_large(ndimage.binary_propagation(grade > SURE, mask=grade > POSSIBLE), SMALLEST_MM3)
    # So deep inside there is no skull, even if the registration is slightly off.
    inner = ndimage.binary_erosion(atlas.brain[::2, ::2, ::2], iterations=round(INNER_MM / 2))
    span = _span_mm(mask & sample_mask(inner, atlas.head.affine @ np.diag([2, 2, 2, 1]), grid))
    contrast = span >= CONTRAST_SPAN_MM
    figures = {"vessel_ml": float(mask.sum()) * STEP_MM**3 / 1000, "vessel_span": span}
    return Vessels(Volume((mask & contrast).astype(np.float32), grid.affine), contrast, figures)


def vesselness(
    hu: np.ndarray, spacing: Sequence[float], where: np.ndarray, *, threads: int | None = None
) -> np.ndarray:
    """Grade how much voxels look like part of a bright tube, 0–1: Frangi et al., MICCAI 1998, maximum over the scales.

    Equal to SimpleITK's `ObjectnessMeasure` of the smoothed image, but computed only at the voxels asked for, which
    takes a tenth of the time and memory: most voxels are too dark to be vessels.

    `hu` is [x, y, z], `spacing` in mm; voxels outside `where`, bool [x, y, z], are not graded: 0.
    """
    voxels = np.argwhere(where)

    def at_scale(scale: float) -> np.ndarray:
        return _tubeness(scale**2 * _curvatures(_smooth(hu, spacing, scale), voxels, spacing))

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        greatest = np.max(list(pool.map(at_scale, SCALES_MM)), axis=0)
    result = np.zeros(hu.shape, dtype=np.float32, order="F")
    result[tuple(voxels.T)] = greatest
    return result


def _curvatures(image: np.ndarray, voxels: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Compute the Hessian's eigenvalues at `voxels` [N, 3] by central differences: [N, 3], least in magnitude first."""
    padded = np.pad(image, 1, mode="edge")
    steps = np.eye(3, dtype=int)

    def at(offset: np.ndarray) -> np.ndarray:
        return np.asarray(padded[tuple((voxels + 1 + offset).T)])

    hessian = np.empty((len(voxels), 3, 3), dtype=np.float32)
    for i, j in itertools.combinations_with_replacement(range(3), 2):
        both, apart = (steps[i] + steps[j]) // (1 + (i == j)), steps[i] - steps[j]
        differences = at(both) + at(-both) - at(apart) - at(-apart)
        hessian[:, i, j] = hessian[:, j, i] = differences / (spacing[i] * spacing[j] * (1 if i == j else 4))
    values = np.linalg.eigvalsh(hessian)
    return np.take_along_axis(values, np.abs(values).argsort(axis=1, kind="stable"), axis=1)


def _tubeness(curvatures: np.ndarray) -> np.ndarray:
    """Compute Frangi's measure of [N, 3] curvatures in HU: unlike a plate, unlike a blob, not weak, and bright."""
    tube = (curvatures[:, 1] < 0) & (curvatures[:, 2] < 0)
    first, second, third = np.abs(curvatures[tube]).T
    unlike_plate = 1 - np.exp(-((second / third) ** 2) / (2 * ALPHA**2))
    unlike_blob = np.exp(-(first**2 / (second * third)) / (2 * BETA**2))
    strong = 1 - np.exp(-(first**2 + second**2 + third**2) / (2 * GAMMA_HU**2))
    result = np.zeros(len(curvatures), dtype=np.float32)
    result[tube] = unlike_plate * unlike_blob * strong
    return result


def _find_bone(hu: np.ndarray, plain: np.ndarray | None, brain: np.ndarray) -> np.ndarray:
    """Find bone and its edge on the mask's grid, by the NCCT (`plain`) where it was scanned, elsewhere by the CTA."""
    skull = ((hu > SKULL_HU) & ~brain) | _keep_large(hu > DENSE_HU, DENSE_MM3)
    bone = ndimage.binary_dilation(skull, iterations=SKULL_REACH, mask=hu > BONE_EDGE_HU)
    if plain is not None:
        bright = _smooth(plain, [STEP_MM] * 3, STEP_MM) > NCCT_BONE_HU
        matched = ndimage.binary_dilation(bright, iterations=NCCT_REACH, mask=hu > BONE_EDGE_HU)
        bone = np.where(plain > AIR, matched | bright, bone)
    return np.asarray(ndimage.binary_dilation(bone))


def _keep_large(mask: np.ndarray, least_mm3: float) -> np.ndarray:
    """Keep the connected parts of at least this volume."""
    labels, _ = ndimage.label(mask, TOUCHING)
    return np.asarray((np.bincount(labels.ravel()) * STEP_MM**3 >= least_mm3)[labels] & mask)


def _span_mm(mask: np.ndarray) -> float:
    """Return the longest diagonal of a box around a connected part."""
    labels, _ = ndimage.label(mask, TOUCHING)
    sides = [[side.stop - side.start for side in box] for box in ndimage.find_objects(labels)]
    return STEP_MM * float(max(np.linalg.norm(each) for each in sides)) if sides else 0.0


def _brain_grid(atlas: Atlas) -> Grid:
    """Return the grid of the mask: the box of the atlas brain and a margin, in steps of `STEP_MM`."""
    voxels = np.argwhere(atlas.brain)
    first = voxels.min(axis=0) + atlas.head.affine[:3, 3] - MARGIN_MM
    shape = np.ceil((np.ptp(voxels, axis=0) + 2 * MARGIN_MM) / STEP_MM).astype(int) + 1
    return Grid(shape=tuple(shape.tolist()), spacing=(STEP_MM,) * 3, origin=tuple(first.tolist()))


def _smooth(hu: np.ndarray, spacing: Sequence[float], sd_mm: float) -> np.ndarray:
    image = sitk.GetImageFromArray(hu.T.astype(np.float32, copy=False))
    image.SetSpacing([float(step) for step in spacing])
    return np.asarray(sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(image, sd_mm)).T)
