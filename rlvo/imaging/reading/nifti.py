"""NIfTI-1 and NIfTI-2, single file, checked byte by byte.

SimpleITK fills truncated files with zeros, turns NaN into 0 and crashes on 5-D files; nibabel takes zero spacing for
1 mm. So header, size and content are checked here, and no image library opens the file. Errors do not name the file;
`rlvo.imaging.reading.source` does.
"""

import gzip
import io
import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from rlvo.errors import RlvoError
from rlvo.imaging.reading.hounsfield import HIGHEST_HU, LOWEST_HU, check_wrapped, clear_impossible, count_wrapped
from rlvo.imaging.resampling import make_orthogonal
from rlvo.imaging.volume import Volume, allocate_volume

MAX_VOXELS = 512 * 512 * 1200
"""The largest CTA: from the vertex to the aortic arch at 0.3 mm."""
MAX_SIDE = 4096
CHUNK_BYTES = 16 << 20
"""Read and converted at a time."""
MAX_RATIO, BOMB_BYTES = 200, 256 << 20
"""A CT compresses less than tenfold; a file that inflates to more than `BOMB_BYTES` at a higher ratio is not a CT."""
COPY_AGAIN = "Copy or export it again"
EXPORT_AGAIN = "Export it again"
FEWER = "the file is truncated: fewer bytes than its header promises"
MORE = "the file holds more bytes than its header promises"
SPACING_RANGE = (0.05, 20.0)
"""Plausible voxel sizes of a CT, mm."""


def read_nifti(path: Path, *, mask: bool = False) -> Volume:
    """Read a `.nii` or `.nii.gz` file. Raises RlvoError for anything but one finite 3-D volume.

    A `mask` may be mostly zeros, and so compressed more than a CT can be.
    """
    compressed = _is_compressed(path)
    try:
        with gzip.open(path) if compressed else path.open("rb") as file:
            header = _read_header(file)
            shape, dtype, offset = _layout(header)
            _check_size(path.stat().st_size, offset, math.prod(shape) * dtype.itemsize, compressed, mask)
            affine, doubts = _affine(header)
            file.seek(offset)
            sheared, voxels = allocate_volume(shape, affine)
            _fill(voxels, file, dtype, _scaling(header), mask)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        damage = "truncated" if isinstance(error, EOFError) else "damaged"
        raise RlvoError(f"the gzip file is {damage}", fix=COPY_AGAIN) from None
    volume = make_orthogonal(sheared)
    notes = () if volume is sheared else ("sheared axes (gantry tilt) resampled",)
    return replace(volume, notes=notes, doubts=tuple(doubts))


def check_voxels(shape: Sequence[int]) -> None:
    """Raise RlvoError for a volume larger than any CT."""
    if max(shape) > MAX_SIDE or math.prod(shape) > MAX_VOXELS:
        text = "×".join(map(str, shape))
        raise RlvoError(f"{text} voxels are larger than any head CT", fix="Crop it to the head")


def _check_size(on_disk: int, offset: int, promised: int, compressed: bool, mask: bool) -> None:
    """Compare the file's size with what its header promises, before anything is inflated or allocated."""
    if compressed and on_disk > 2 * (offset + promised) + CHUNK_BYTES:
        raise RlvoError(MORE, fix=COPY_AGAIN)
    if compressed and not mask and promised > max(BOMB_BYTES, MAX_RATIO * on_disk):
        what = f"its header promises {promised >> 20} MB, more than a CT of {on_disk >> 10} kB can hold"
        raise RlvoError(what, fix=EXPORT_AGAIN)
    if not compressed and on_disk != offset + promised:
        raise RlvoError(FEWER if on_disk < offset + promised else MORE, fix=COPY_AGAIN)


def _fill(
    voxels: np.ndarray, file: BinaryIO | gzip.GzipFile, dtype: np.dtype, scaling: tuple[float, float], mask: bool
) -> None:
    """Read and scale `voxels` [as stored], a few slices at a time; the file must end where they end."""
    columns, rows, slices = voxels.shape
    wrapped = 0
    slice_bytes = columns * rows * dtype.itemsize
    step = max(1, CHUNK_BYTES // slice_bytes)
    for first in range(0, slices, step):
        count = min(step, slices - first)
        data = file.read(count * slice_bytes)
        if len(data) < count * slice_bytes:
            raise RlvoError(FEWER, fix=COPY_AGAIN)
        with np.errstate(over="ignore"):
            chunk = np.frombuffer(data, dtype).reshape((columns, rows, count), order="F").astype(np.float32)
            if scaling != (1.0, 0.0):
                chunk *= np.float32(scaling[0])
                chunk += np.float32(scaling[1])
        if not np.isfinite(chunk).all():
            raise RlvoError("some values are NaN or infinite", fix="Export it again without them")
        if not mask and (chunk.max() > HIGHEST_HU or chunk.min() < LOWEST_HU):
            for number in range(count):
                clear_impossible(chunk[:, :, number])
                wrapped += count_wrapped(chunk[:, :, number])
        voxels[:, :, first : first + count] = chunk
    check_wrapped(wrapped, voxels.size)
    if file.read(1):
        raise RlvoError(MORE, fix=COPY_AGAIN)


def _is_compressed(path: Path) -> bool:
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise RlvoError("neither a NIfTI file nor a folder", fix="Give a .nii or .nii.gz file, or a DICOM folder")
    with path.open("rb") as file:
        start = file.read(2)
    if not start:
        raise RlvoError("the file is empty", fix=COPY_AGAIN)
    return start == b"\x1f\x8b"


def _read_header(file: BinaryIO | gzip.GzipFile) -> nibabel.Nifti1Header:
    """Read the header, either version, either byte order. Raises RlvoError if it is not a NIfTI header."""
    start = file.read(348)
    kinds = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
    sizes = {int.from_bytes(start[:4], order): order for order in ("little", "big")}
    size = next((size for size in kinds if size in sizes), None)
    if size is None:
        raise RlvoError("not a NIfTI file", fix="Convert it, e.g. with dcm2niix")
    start += file.read(size - 348)
    if len(start) < size:
        raise RlvoError("the file is truncated: it ends within its header", fix=COPY_AGAIN)
    header = kinds[size].from_fileobj(io.BytesIO(start), endianness=sizes[size], check=False)
    magic = bytes(header["magic"])
    if magic[:3] not in (b"n+1", b"n+2"):
        fix = "Join .hdr and .img into one .nii" if magic[:3] in (b"ni1", b"ni2") else "Convert it, e.g. with dcm2niix"
        raise RlvoError("not a single-file NIfTI", fix=fix)
    return header


def _layout(header: nibabel.Nifti1Header) -> tuple[tuple[int, ...], np.dtype, int]:
    """Return shape (three numbers), data type and offset of the voxels."""
    dims = [int(n) for n in header["dim"]]
    if not 1 <= dims[0] <= 7:
        raise RlvoError(f"its header gives {dims[0]} dimensions", fix=EXPORT_AGAIN)
    shape = dims[1 : dims[0] + 1]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3:
        raise RlvoError(f"the image is {len(shape)}-D, not one 3-D volume", fix="Give one volume per file")
    if min(shape) < 1:
        raise RlvoError(f"its header gives a size of {'×'.join(map(str, shape))}", fix=EXPORT_AGAIN)
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        raise RlvoError("its header gives an unknown data type", fix="Export it as 16-bit integers") from None
    if dtype.kind not in "iuf" or dtype.itemsize > 8 or dtype.fields:
        what = "its values are colours, complex, or of another unsupported type"
        raise RlvoError(what, fix="Export it as 16-bit integers in HU")
    check_voxels(shape)
    offset = float(header["vox_offset"])
    if not (math.isfinite(offset) and int(header["sizeof_hdr"]) <= offset <= 1 << 26):
        raise RlvoError("its header does not say where the voxels begin", fix=EXPORT_AGAIN)
    return tuple(shape), dtype, int(offset)


def _scaling(header: nibabel.Nifti1Header) -> tuple[float, float]:
    """Return slope and intercept; a slope of 0 or NaN means none (NIfTI-1)."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise RlvoError("its header scales the values by infinity", fix=EXPORT_AGAIN)
    return slope, intercept


def _affine(header: nibabel.Nifti1Header) -> tuple[np.ndarray, list[str]]:
    """Return voxel to RAS mm (sform before qform, as nibabel and ITK read it), and doubts about it."""
    if int(header["xyzt_units"]) & 7 in (1, 3):
        raise RlvoError("its spacing is not in millimetres", fix="Export it in millimetres")
    zooms = np.asarray(header["pixdim"][1:4], dtype=float)
    _check_spacing(np.abs(zooms))
    try:
        with np.errstate(invalid="ignore"):
            affine = np.asarray(header.get_best_affine(), dtype=float)
    except (HeaderDataError, ValueError):
        affine = np.full((4, 4), np.nan)
    if not np.isfinite(affine).all():
        raise RlvoError("its header has no valid orientation", fix=EXPORT_AGAIN)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    _check_spacing(spacing)
    if abs(np.linalg.det(affine[:3, :3] / spacing)) < 0.5:
        raise RlvoError("the axes in its header do not span a volume", fix=EXPORT_AGAIN)
    if np.abs(spacing - np.abs(zooms)).max() > 0.1 * spacing.max():
        raise RlvoError("spacing and orientation in its header contradict each other", fix=EXPORT_AGAIN)
    return affine, _orientation_doubts(header)


def _orientation_doubts(header: nibabel.Nifti1Header) -> list[str]:
    """Name what the header leaves open about the direction of the axes."""
    sform, qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not (sform or qform):
        return ["the header gives no orientation; left and right are a guess"]
    if sform and qform:
        try:
            with np.errstate(invalid="ignore"):
                quaternion = header.get_qform()
        except (HeaderDataError, ValueError):
            return ["one of the two orientations in its header (qform) is not valid"]
        if nibabel.aff2axcodes(header.get_sform()) != nibabel.aff2axcodes(quaternion):
            return ["the two orientations in its header (sform, qform) contradict each other"]
    return []


def _check_spacing(spacing: np.ndarray) -> None:
    low, high = SPACING_RANGE
    if not (np.isfinite(spacing).all() and spacing.min() >= low and spacing.max() <= high):
        text = " × ".join(f"{value:g}" for value in spacing)
        raise RlvoError(f"voxel size {text} mm is implausible for CT", fix="Correct it in the header")
