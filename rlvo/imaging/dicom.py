"""A folder with one CT series, put together from where its slices really lie.

GDCM ignores gantry tilt and ITK averages irregular gaps; here every slice counts at its own position.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError

from rlvo.errors import RlvoError
from rlvo.imaging.resampling import orthogonal
from rlvo.imaging.volume import AIR, RAS_TO_LPS, Volume, canonical

MIN_SLICES = 4
MAX_GAP_MM = 12.0
"""A larger step between neighbouring slices means that slices are missing."""
SAME_POSITION_MM = 0.01
MIN_SPACING_MM = 1.0
"""Irregular series are resampled to their smallest gap, but no finer than this (or than their median gap)."""
LOWEST_HU = -1024.0
"""Below lies padding outside the reconstruction circle, not tissue."""
SUFFIXES = (".dcm", ".ima", ".dicom")
EXPORT_AGAIN = "Export the series again"

DICOM_FAULTS = (
    ArithmeticError, AttributeError, BytesLengthException, EOFError, InvalidDicomError, LookupError, RuntimeError,
    TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom raises on damaged files: it parses values late, with many kinds of exceptions."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One image of a series: pixels [column, row] in HU, geometry in LPS mm."""

    series: str
    pixels: np.ndarray
    position: np.ndarray
    orientation: np.ndarray
    spacing: tuple[float, float]


def read_dicom(folder: Path, where: str) -> Volume:
    """Read the one CT series of a folder into HU. Raises RlvoError (`where` names it) for anything else."""
    slices, left_out = _read_slices(folder, where)
    slices, others = _one_series(slices, where)
    slices, copies = _sorted(slices, where)
    positions = np.array([each.position for each in slices])
    stack = np.stack([each.pixels.T for each in slices]).T
    stack, step, gaps = _even_steps(stack, positions, where)
    first = slices[0]
    row, column = first.orientation
    lps = np.eye(4)
    lps[:3, :3] = np.column_stack([row * first.spacing[0], column * first.spacing[1], step])
    lps[:3, 3] = positions[0]
    sheared = Volume(stack, RAS_TO_LPS @ lps)
    volume = orthogonal(sheared)
    tilt = []
    if volume is not sheared:
        cosine = abs(np.cross(row, column) @ step) / float(np.linalg.norm(step))
        tilt = [f"gantry tilt of {np.degrees(np.arccos(min(1.0, cosine))):.1f}° corrected"]
    return replace(canonical(volume), notes=(*left_out, *others, *copies, *tilt, *gaps))


def _read_slices(folder: Path, where: str) -> tuple[list[Slice], list[str]]:
    """Every slice of the folder, and a note on images left out. Files that do not claim to be DICOM are passed over."""
    slices, left_out = [], []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = f"{where}, {path.name}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom's remarks on values it tolerates
                dataset = pydicom.dcmread(path)
                if kind := _not_a_slice(dataset):
                    left_out.append(kind)
                else:
                    slices.append(_read_slice(dataset, name))
        except DICOM_FAULTS as error:
            if isinstance(error, InvalidDicomError) and path.suffix.lower() not in SUFFIXES:
                continue
            raise RlvoError("damaged or not DICOM", where=name, fix=f"{EXPORT_AGAIN}, or take the file out") from None
    kinds = ", ".join(sorted(set(left_out)))
    if not slices:
        what = f"holds no CT slice, only {kinds}" if left_out else "holds no DICOM file"
        raise RlvoError(what, where=where, fix="Give the folder with the axial CT series")
    return slices, [f"{len(left_out)} image(s) left out ({kinds})"] if left_out else []


def _not_a_slice(dataset: pydicom.Dataset) -> str:
    """What an object is that is no CT slice: a report, a scout, a screenshot; empty for slices."""
    if "PixelData" not in dataset or "SOPClassUID" not in dataset:
        return "no image"
    if dataset.get("Modality") != "CT":
        return f"modality {dataset.get('Modality')}"
    if "LOCALIZER" in [str(part).upper() for part in dataset.get("ImageType") or []]:
        return "localizer"
    return "colour" if int(dataset.SamplesPerPixel) != 1 else ""


def _read_slice(dataset: pydicom.Dataset, where: str) -> Slice:
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise RlvoError("several frames in one file", where=where, fix="Export one file a slice, or NIfTI (dcm2niix)")
    if "RescaleSlope" not in dataset or "RescaleIntercept" not in dataset:
        raise RlvoError("no rescale slope and intercept, so no HU", where=where, fix="Give the original CT series")
    for field in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        if not dataset.get(field):
            raise RlvoError(f"no {field}", where=where, fix="Give the original axial CT series")
    try:
        raw = dataset.pixel_array
    except (NotImplementedError, RuntimeError):
        raise RlvoError(
            "pixels cannot be decoded", where=where, fix="Decompress the series (e.g. gdcmconv --raw)"
        ) from None
    pixels = raw.T.astype(np.float32) * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    pixels[pixels < LOWEST_HU] = AIR
    position = np.array(dataset.ImagePositionPatient, dtype=float)
    orientation = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
    row_step, column_step = (float(value) for value in dataset.PixelSpacing)
    geometry = [*position, *orientation.ravel(), row_step, column_step]
    if not (np.isfinite(geometry).all() and np.isfinite(pixels).all()):
        raise RlvoError("positions or values that are not finite", where=where, fix=EXPORT_AGAIN)
    if not (0.05 <= row_step <= 20 and 0.05 <= column_step <= 20):
        raise RlvoError(f"pixels of {row_step:g} × {column_step:g} mm are no CT's", where=where, fix=EXPORT_AGAIN)
    if np.abs(orientation @ orientation.T - np.eye(2)).max() > 1e-2:
        raise RlvoError("row and column directions that are not orthogonal", where=where, fix=EXPORT_AGAIN)
    orientation /= np.linalg.norm(orientation, axis=1, keepdims=True)
    return Slice(str(dataset.get("SeriesInstanceUID")), pixels, position, orientation, (column_step, row_step))


def _one_series(slices: Sequence[Slice], where: str) -> tuple[list[Slice], list[str]]:
    """The one series with slices enough for a volume, and a note on others' slices. Raises RlvoError for any doubt."""
    series = defaultdict(list)
    for each in slices:
        series[each.series].append(each)
    volumes = [each for each in series.values() if len(each) >= MIN_SLICES]
    if not volumes:
        largest = max(len(each) for each in series.values())
        fix = f"Give the whole series, at least {MIN_SLICES} slices"
        raise RlvoError(f"only {largest} slice(s) in its largest series", where=where, fix=fix)
    if len(volumes) > 1:
        sizes = ", ".join(str(len(each)) for each in sorted(volumes, key=len, reverse=True))
        raise RlvoError(
            f"{len(volumes)} series in one folder ({sizes} slices)", where=where, fix="Give one series a folder"
        )
    chosen = volumes[0]
    first = chosen[0]
    if any(each.pixels.shape != first.pixels.shape or each.spacing != first.spacing for each in chosen):
        raise RlvoError("slices of different size in one series", where=where, fix="Give one reconstruction a folder")
    if any(np.abs(each.orientation - first.orientation).max() > 1e-3 for each in chosen):
        raise RlvoError("slices of different orientation in one series", where=where, fix="Give the axial slices only")
    others = len(slices) - len(chosen)
    return chosen, [f"{others} slice(s) of other series left out"] if others else []


def _sorted(slices: list[Slice], where: str) -> tuple[list[Slice], list[str]]:
    """By position along the slice normal; identical copies dropped, different images at one position refused."""
    normal = np.cross(*slices[0].orientation)
    slices = sorted(slices, key=lambda each: float(each.position @ normal))
    kept = slices[:1]
    for each in slices[1:]:
        if (each.position - kept[-1].position) @ normal > SAME_POSITION_MM:
            kept.append(each)
        elif not np.array_equal(each.pixels, kept[-1].pixels):
            raise RlvoError(
                "two different images at one position", where=where, fix="Give one phase and reconstruction a folder"
            )
    copies = len(slices) - len(kept)
    if len(kept) < MIN_SLICES:
        raise RlvoError(f"only {len(kept)} different slice(s)", where=where, fix="Give the whole series")
    return kept, [f"{copies} duplicate slice(s) dropped"] if copies else []


def _even_steps(stack: np.ndarray, positions: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The stack with even steps between slices, interpolated where they are not; the step, LPS mm; and notes."""
    line = positions[-1] - positions[0]
    length = float(np.linalg.norm(line))
    along = (positions - positions[0]) @ line / length
    if np.abs(positions - positions[0] - np.outer(along, line / length)).max() > 0.5:
        raise RlvoError(
            "slices do not follow one line", where=where, fix="Give one axial series, without moved or re-angled slices"
        )
    gaps = np.diff(along)
    if gaps.max() > MAX_GAP_MM:
        raise RlvoError(
            f"a gap of {gaps.max():.1f} mm between slices", where=where, fix="Slices are missing: export all of them"
        )
    if gaps.max() - gaps.min() <= max(0.02, 0.02 * float(np.median(gaps))):
        return stack, line / (len(positions) - 1), []
    spacing = max(float(gaps.min()), min(MIN_SPACING_MM, float(np.median(gaps))))
    targets = np.arange(0, length + 1e-6, spacing)
    below = np.clip(np.searchsorted(along, targets, side="right") - 1, 0, len(along) - 2)
    even = np.empty((*stack.shape[:2], len(targets)), dtype=np.float32, order="F")
    for k, (first, weight) in enumerate(zip(below, (targets - along[below]) / gaps[below], strict=True)):
        even[:, :, k] = stack[:, :, first] * np.float32(1 - weight) + stack[:, :, first + 1] * np.float32(weight)
    sizes = "/".join(f"{gap:.1f}" for gap in sorted({round(float(gap), 1) for gap in gaps}))
    return even, line / length * spacing, [f"irregular slice gaps {sizes} mm resampled"]
