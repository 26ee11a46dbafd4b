"""One CT series as a volume, every slice at its own position.

GDCM ignores gantry tilt, and ITK averages irregular gaps.
"""

import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.pixels import iter_pixels

from rlvo.errors import RlvoError
from rlvo.imaging.reading.dicom_headers import DICOM_FAULTS, EXPORT_AGAIN, Acquisition, Slice, read_slices
from rlvo.imaging.reading.dicom_series import MIN_SLICES, SAME_POSITION_MM, Series
from rlvo.imaging.reading.hounsfield import (
    LOWEST_HU,
    USUAL_HU,
    check_wrapped,
    clear_impossible,
    count_wrapped,
    is_padding,
    outside_circle,
)
from rlvo.imaging.reading.nifti import check_voxels
from rlvo.imaging.resampling import make_orthogonal
from rlvo.imaging.volume import AIR, RAS_TO_LPS, Volume, allocate_volume

MAX_GAP_MM = 12.0
"""With a larger step between neighbouring slices, slices are missing."""
MIN_SPACING_MM = 1.0
"""Irregular series are resampled to their smallest gap, but not finer than this (or than their median gap)."""
WIDE_GAP = 1.8
"""A gap this many times as wide as both neighbouring gaps lacks a slice."""
DECODER = Path(__file__).with_name("decode_dicom.py")
DECODING_SECONDS = 600
UNDECODABLE = "the file is damaged: its pixels cannot be decoded"


def read_series(series: Series, where: str) -> Volume:
    """Assemble a series' slices to a volume in HU, RAS+. Raises RlvoError if they do not form one."""
    chosen = [each for header in series.headers for each in read_slices(header, f"{where}, {header.path.name}")]
    first = chosen[0]
    if any(each.size != first.size or not np.allclose(each.spacing, first.spacing, rtol=1e-3) for each in chosen):
        raise RlvoError("the slices of the series differ in size", fix="Give each reconstruction a folder of its own")
    if any(np.abs(each.orientation - first.orientation).max() > 1e-3 for each in chosen):
        raise RlvoError("the slices of the series differ in orientation", fix="Give the axial slices only")
    _refuse_interleaved(chosen)
    numbers, positions = _number_slices(chosen)
    lossy = any(str(header.elements.get("LossyImageCompression")) == "01" for header in series.headers)
    along, line = _project_on_line(positions)
    spacing, gaps = _even_spacing(along)
    doubts = [*_doubt_gaps(along), *(["compressed with loss"] if lossy else [])]
    targets = along if spacing is None else np.arange(0, along[-1] + 1e-6, spacing)
    row, column = first.orientation
    step = line / (len(along) - 1) * along[-1] if spacing is None else line * spacing
    lps = np.eye(4)
    lps[:3, :3] = np.column_stack([row * first.spacing[0], column * first.spacing[1], step])
    lps[:3, 3] = positions[0]
    rows, columns = first.size
    check_voxels((columns, rows, max(len(along), len(targets))))
    sheared, stack = allocate_volume((columns, rows, len(targets)), RAS_TO_LPS @ lps)
    with _decode_compressed(series, where) as decoded:
        read = stack if spacing is None else np.empty((columns, rows, len(along)), dtype=np.float32, order="F")
        copies = _fill_stack(read, chosen, numbers, decoded, where)
        if spacing is not None:
            _interpolate(read, along, targets, stack)
    volume = make_orthogonal(sheared)
    tilt = []
    if volume is not sheared:
        cosine = abs(np.cross(row, column) @ line)
        tilt = [f"gantry tilt of {np.degrees(np.arccos(min(1.0, cosine))):.1f}° corrected"]
    return replace(volume, notes=(*copies, *tilt, *gaps), doubts=tuple(doubts))


def _refuse_interleaved(chosen: Sequence[Slice]) -> None:
    """Raise RlvoError if slices of several acquisitions interleave in height: the head may move between two scans.

    Slices or blocks of a sequential scan, each with an acquisition number of its own, lie one after the other.
    """
    normal = np.cross(*chosen[0].orientation)
    scans: dict[Acquisition, list[float]] = {}
    for each in chosen:
        scans.setdefault(each.acquisition, []).append(float(each.position @ normal))
    several = [(scan, np.unique(heights)) for scan, heights in scans.items() if np.ptp(heights) > SAME_POSITION_MM]
    several.sort(key=lambda scan: scan[1][0])
    mixed = set[Acquisition]()
    for number, (scan, heights) in enumerate(several, 1):
        for other, others in itertools.islice(several, number, None):
            if others[0] >= heights[-1]:
                break
            mixed.update((scan, other) if _interleave(heights, others) else ())
    if mixed:
        parts = " and ".join(f"{scan.number} ({len(scans[scan])} slices)" for scan in scans if scan in mixed)
        what = f"the slices of the series are of {len(mixed)} acquisitions that interleave: {parts}"
        raise RlvoError(what, fix="The head may have moved between them: give each acquisition a folder of its own")


def _interleave(heights: np.ndarray, others: np.ndarray) -> bool:
    """Whether slices of each lie among those of the other, and not just one of each where two blocks meet."""

    def count_inside(some: np.ndarray, span: np.ndarray) -> int:
        return int(((some > span[0] + SAME_POSITION_MM) & (some < span[-1] - SAME_POSITION_MM)).sum())

    counts = count_inside(heights, others), count_inside(others, heights)
    return min(counts) > 0 and max(counts) > 1


def _number_slices(chosen: Sequence[Slice]) -> tuple[list[int], np.ndarray]:
    """Number the slices along their normal, the same number for the same position; also the positions, LPS mm."""
    normal = np.cross(*chosen[0].orientation)
    heights = np.array([each.position @ normal for each in chosen])
    order = np.argsort(heights, kind="stable")
    numbers, positions = [0] * len(chosen), [chosen[order[0]].position]
    for index in order:
        if heights[index] - positions[-1] @ normal > SAME_POSITION_MM:
            positions.append(chosen[index].position)
        numbers[index] = len(positions) - 1
    if len(positions) < MIN_SLICES:
        raise RlvoError(f"there are only {len(positions)} different slice(s)", fix="Give the whole series")
    return numbers, np.array(positions)


def _project_on_line(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return positions along the line through the first and the last slice, mm, and the line's direction."""
    length = float(np.linalg.norm(positions[-1] - positions[0]))
    line = (positions[-1] - positions[0]) / length
    along = (positions - positions[0]) @ line
    if np.abs(positions - positions[0] - np.outer(along, line)).max() > 0.5:
        fix = "Give one axial series, without moved or re-angled slices"
        raise RlvoError("the slices do not follow one line", fix=fix)
    gaps = np.diff(along)
    if gaps.max() > MAX_GAP_MM:
        what = f"there is a gap of {gaps.max():.1f} mm between slices"
        raise RlvoError(what, fix="Slices are missing: export all of them")
    return along, line


def _even_spacing(along: np.ndarray) -> tuple[float | None, list[str]]:
    """Return the spacing to resample to, mm, and a note; None if slices are evenly spaced already."""
    gaps = np.diff(along)
    if gaps.max() - gaps.min() <= max(0.02, 0.02 * float(np.median(gaps))):
        return None, []
    sizes = "/".join(f"{gap:.1f}" for gap in sorted({round(float(gap), 1) for gap in gaps}))
    spacing = max(float(gaps.min()), min(MIN_SPACING_MM, float(np.median(gaps))))
    return spacing, [f"irregular slice gaps {sizes} mm resampled"]


def _doubt_gaps(along: np.ndarray) -> list[str]:
    """Return a doubt if single gaps are about twice their neighbours or more: slices are missing there."""
    gaps = np.pad(np.diff(along), 1, mode="reflect")
    wide = gaps[1:-1] > WIDE_GAP * np.maximum(gaps[:-2], gaps[2:])
    return [f"a slice seems to be missing in {wide.sum()} place(s); interpolated"] if wide.any() else []


@contextmanager
def _decode_compressed(series: Series, where: str) -> Iterator[dict[Path, Path]]:
    """Decode compressed files to files that last as long as the context. Raises RlvoError if one is damaged."""
    compressed = [header.path for header in series.headers if header.compressed]
    if not compressed:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        names = b"\0".join(os.fsencode(path.absolute()) for path in compressed)
        with suppress(subprocess.SubprocessError):
            subprocess.run(
                [sys.executable, "-I", str(DECODER), folder], input=names, capture_output=True, timeout=DECODING_SECONDS
            )
        found = {path: Path(folder, f"{number}.npy") for number, path in enumerate(compressed)}
        if damaged := next((path for path, pixels in found.items() if not pixels.exists()), None):
            raise RlvoError(UNDECODABLE, where=f"{where}, {damaged.name}", fix=EXPORT_AGAIN)
        yield found


def _fill_stack(
    stack: np.ndarray, chosen: Sequence[Slice], numbers: Sequence[int], decoded: Mapping[Path, Path], where: str
) -> list[str]:
    """Write HU to `stack` [column, row, number], file by file; a note on identical copies.

    Raises RlvoError if two slices at one position differ, pixels cannot be decoded, or no CT can have their values.
    """
    filled, copies, wrapped = set(), 0, 0
    for header, pairs in itertools.groupby(zip(chosen, numbers, strict=True), key=lambda pair: pair[0].header):
        path = header.path
        try:
            if path in decoded:
                frames = np.load(decoded[path], mmap_mode="r")
            else:  # run lengths included: on damaged ones GDCM crashes
                frames = iter_pixels(
                    path, decoding_plugin="pydicom", transfer_syntax_uid=header.syntax, correct_unused_bits=False
                )
            for (each, number), pixels in zip(pairs, frames, strict=True):  # [row, column]
                hu = _to_hu(pixels, each).T
                clear_impossible(hu)
                wrapped += count_wrapped(hu)
                hu[hu < LOWEST_HU] = AIR
                if number not in filled:
                    stack[:, :, number] = hu
                elif not np.array_equal(hu, stack[:, :, number]):
                    fix = "Give each phase and reconstruction a folder of its own"
                    raise RlvoError("there are two different images at one position", fix=fix)
                copies += number in filled
                filled.add(number)
        except DICOM_FAULTS:
            raise RlvoError(UNDECODABLE, where=f"{where}, {path.name}", fix=EXPORT_AGAIN) from None
    check_wrapped(wrapped, stack.size)
    return [f"{copies} duplicate slice(s) dropped"] if copies else []


def _to_hu(stored: np.ndarray, each: Slice) -> np.ndarray:
    """Convert a frame's stored values to HU, float32; declared padding, and one value in the corners alone, become air.

    Bits above BitsStored are dropped (overlays). The padding's own may be set there: it is looked for with them.
    """
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    bits = 8 * stored.dtype.itemsize
    unused = max(0, bits - int(each.header.elements.get("BitsStored") or bits))
    values = (stored << unused) >> unused
    hu = values.astype(np.float32) * np.float32(each.slope) + np.float32(each.intercept)
    padding = _declared_padding(stored, each)
    if padding.any():
        as_stored = stored.astype(np.float32) * np.float32(each.slope) + np.float32(each.intercept)
        low, high = USUAL_HU
        air = (as_stored >= LOWEST_HU) & (as_stored <= low)
        padding &= ~air & ((as_stored < low) | (as_stored > high) | outside_circle(hu.shape))
    other = (stored != values) & ~padding
    if other.any() and is_padding(stored, other):
        padding |= other
    hu[padding] = AIR
    return hu


def _declared_padding(stored: np.ndarray, each: Slice) -> np.ndarray:
    """Return which pixels hold the header's padding value, or lie between it and its range limit."""
    elements, unsigned = each.header.elements, np.dtype(f"u{stored.dtype.itemsize}")
    ends = [elements.get(keyword) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    numbers = [int.from_bytes(end, "little") if isinstance(end, bytes) else int(end) for end in ends if end is not None]
    if ends[0] is None or not numbers:
        return np.zeros(stored.shape, dtype=bool)
    size = 1 << 8 * unsigned.itemsize
    low, high = sorted(np.array([number % size for number in numbers], unsigned).view(stored.dtype)[[0, -1]])
    return np.asarray((stored >= low) & (stored <= high))


def _interpolate(stack: np.ndarray, along: np.ndarray, targets: np.ndarray, even: np.ndarray) -> None:
    """Write `even`, interpolated linearly between the neighbouring slices of `stack`."""
    below = np.clip(np.searchsorted(along, targets, side="right") - 1, 0, len(along) - 2)
    weights = (targets - along[below]) / np.diff(along)[below]
    for k, (first, weight) in enumerate(zip(below, weights, strict=True)):
        even[:, :, k] = stack[:, :, first] * np.float32(1 - weight) + stack[:, :, first + 1] * np.float32(weight)
