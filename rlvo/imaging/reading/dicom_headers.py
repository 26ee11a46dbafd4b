"""DICOM headers, read before any pixel: what each file of a folder is, and where its slices lie.

Only a bounded part of each file is read, so that no length, sequence or compressed stream in it can exhaust memory.
"""

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_partial, read_preamble
from pydicom.pixels import get_decoder
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
    LegacyConvertedEnhancedCTImageStorage,
    RLELossless,
)

from rlvo.errors import RlvoError
from rlvo.imaging.reading.nifti import FEWER, MORE, SPACING_RANGE

MAX_FILES = 20_000
"""A study with whole-brain perfusion has fewer."""
MAX_SIDE = 2048
"""Rows or columns of the largest CT slices."""
HEADER_BYTES = (1 << 16, 4 << 20)
"""Bytes read to find a header's end: at first enough for a slice, then enough for the frames of an enhanced CT."""
MAX_ITEMS = 30_000
"""Sequence items in a header: about twenty per frame."""
DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
EXPORT_AGAIN = "Export the series again"
ORIGINAL = "Give the original axial CT series"

DICOM_FAULTS = (
    ArithmeticError, AttributeError, BytesLengthException, EOFError, InvalidDicomError, LookupError, RuntimeError,
    TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom raises on damaged files: it parses values lazily, with many kinds of exceptions."""

ELEMENTS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "SeriesDescription",
    "ContrastBolusAgent", "ContrastBolusVolume", "ContrastBolusRoute", "ConvolutionKernel", "IrradiationEventUID",
    "AcquisitionNumber", "SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "NumberOfFrames",
    "PixelPaddingValue", "PixelPaddingRangeLimit",
    "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept",
    "LossyImageCompression", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
"""All that is read from a header: nothing that identifies the patient."""
TAGS = [pydicom.datadict.tag_for_keyword(keyword) for keyword in ELEMENTS]
FLOAT_PIXEL_DATA, PIXEL_DATA = 0x7FE00008, 0x7FE00010
"""Elements before these in their group are legal: its length, and tables of where frames begin."""
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
APPLE_DOUBLE = "._"
"""What macOS writes beside a file on a foreign disk: its attributes, under its name with this before it."""
CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
GROUPS = {
    "PixelSpacing": "PixelMeasuresSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "IrradiationEventUID": "IrradiationEventIdentificationSequence",
}
"""Functional group in which an enhanced CT keeps what a single slice has at the top level (PS3.3 C.7.6.16)."""


class Acquisition(NamedTuple):
    """One scan: its IrradiationEventUID, if headers give it, and its number as text."""

    event: str
    number: str


@dataclass(frozen=True, eq=False)
class Header:
    """A file's elements (`ELEMENTS` only) and the bytes of pixel data that follow them in the file."""

    path: Path
    elements: pydicom.Dataset
    syntax: str
    pixel_bytes: int

    @property
    def compressed(self) -> bool:
        """Whether its pixels need a decoder (JPEG and the like; run lengths are decoded here)."""
        return self.syntax not in (*NATIVE, RLELossless)

    @property
    def decodable(self) -> bool:
        """Whether a decoder for its pixels is installed (GDCM has none for more than 8 bits of JPEG Extended)."""
        if self.syntax == JPEGExtended12Bit and self.elements.get("BitsStored") != 8:
            return False
        try:
            return not self.compressed or "gdcm" in get_decoder(pydicom.uid.UID(self.syntax)).available_plugins
        except NotImplementedError:
            return False

    @property
    def frames(self) -> int:
        """Number of images in the file that have a geometry of their own."""
        return len(self.elements.get("PerFrameFunctionalGroupsSequence") or (None,))

    def element(self, keyword: str, frame: int = 0) -> Any:
        """Return a frame's element, from its own or the shared functional groups if the file has such; else None."""
        if "PerFrameFunctionalGroupsSequence" not in self.elements:
            return self.elements.get(keyword)
        own = self.elements.PerFrameFunctionalGroupsSequence[frame]
        shared = self.elements.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
        for groups in (own, shared[0]):
            if groups.get(GROUPS[keyword]):
                return groups[GROUPS[keyword]][0].get(keyword)
        return None

    def acquisition(self, frame: int = 0) -> Acquisition:
        """Return which acquisition a frame is of; the file's elements say it if the frame's own do not."""
        number = self.element("FrameAcquisitionNumber", frame) or self.elements.get("AcquisitionNumber")
        event = self.element("IrradiationEventUID", frame) or self.elements.get("IrradiationEventUID")
        return Acquisition(str(event or ""), str(number or "without a number"))


@dataclass(frozen=True, eq=False)
class Slice:
    """One frame: its file's header, its size in pixels (rows, columns), its geometry in LPS mm, and how to get HU."""

    header: Header
    size: tuple[int, int]
    position: np.ndarray
    orientation: np.ndarray
    spacing: tuple[float, float]
    slope: float
    intercept: float
    acquisition: Acquisition


def read_headers(folder: Path, where: str) -> list[Header]:
    """Read the header of every file in and below a folder, by path; files that do not claim to be DICOM are skipped.

    Raises RlvoError if a file is damaged, OSError if a file or folder cannot be read.
    """
    files = (path for path in list_files(folder, where) if not path.name.startswith(APPLE_DOUBLE))
    found = (read_header(path, f"{where}, {path.name}") for path in files)
    return [header for header in found if header is not None]


def list_files(folder: Path, where: object) -> list[Path]:
    """List what is in and below a folder except folders, links to folders followed, each folder once.

    Raises RlvoError if there are more than `MAX_FILES`, OSError if a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    files: list[Path] = []
    seen = {_identify(folder)}
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        new = []
        for name in sorted(folders, key=lambda name: (Path(parent, name).is_symlink(), name)):
            if (identity := _identify(Path(parent, name))) not in seen:
                seen.add(identity)
                new.append(name)
        folders[:] = new
        files += [Path(parent, name) for name in sorted(names)]
        if len(files) > MAX_FILES:
            what = f"the folder holds more than {MAX_FILES} files"
            raise RlvoError(what, where=where, fix="Give the folder of one series")
    return files


def _identify(folder: Path) -> tuple[int, int]:
    state = folder.stat()
    return state.st_dev, state.st_ino


def looks_like_dicom(start: bytes) -> bool:
    """Whether a file's first bytes are those of DICOM: the usual preamble, or without it an element of group 2 or 8."""
    group, vr, length = start[:2], start[4:6], int.from_bytes(start[4:8], "little")
    bare = group in (b"\x02\0", b"\x08\0") and len(start) > 132 and (vr in (b"UL", b"CS", b"UI", b"OB") or length <= 64)
    return start[128:132] == b"DICM" or bare


def read_header(path: Path, where: str) -> Header | None:
    """Read a file's header; None if it does not claim to be DICOM. Raises RlvoError if it is damaged."""
    claims = path.suffix.lower() in DICOM_SUFFIXES
    if not path.is_file():
        if claims:
            raise RlvoError("not a regular file", where=where, fix=EXPORT_AGAIN)
        return None
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for limit in HEADER_BYTES:
            file.seek(0)
            start = file.read(limit)
            try:
                header = _parse_header(path, start, size, where)
            except (*DICOM_FAULTS, MemoryError, OSError) as error:  # the bytes are in memory: the file is at fault
                if isinstance(error, InvalidDicomError) and not claims:
                    return None
                if limit < min(size, HEADER_BYTES[-1]):
                    continue  # perhaps because we cut it off
                fix = f"{EXPORT_AGAIN}, or remove the file"
                raise RlvoError("the file is damaged or not DICOM", where=where, fix=fix) from None
            if header.pixel_bytes or size <= limit:
                break
    return header


def _parse_header(path: Path, start: bytes, size: int, where: str) -> Header:
    file = io.BytesIO(start)
    if not looks_like_dicom(start):
        raise InvalidDicomError
    read_preamble(file, force=True)
    if start.count(b"\xfe\xff\x00\xe0") + start.count(b"\xff\xfe\xe0\x00") > MAX_ITEMS:
        raise ValueError
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    syntax = meta.get("TransferSyntaxUID")
    if syntax == DeflatedExplicitVRLittleEndian:
        fix = f"{EXPORT_AGAIN} in an uncompressed transfer syntax"
        raise RlvoError("the whole file is deflated", where=where, fix=fix)
    file.seek(0)
    pixel_bytes = 0

    def at_pixels(tag: Any, vr: str | None, length: int) -> bool:
        nonlocal pixel_bytes
        if int(tag) < FLOAT_PIXEL_DATA:
            return False
        if int(tag) == PIXEL_DATA:
            pixel_bytes = min(length, size - file.tell())
        return True

    elements = read_partial(file, stop_when=at_pixels, specific_tags=TAGS, force=True)
    if not pixel_bytes and len(start) in (size, HEADER_BYTES[-1]) and meta.get("MediaStorageSOPClassUID") in CT_CLASSES:
        raise EOFError
    for element in elements:  # pydicom parses a value on access: access all of them now
        _ = element.value
    if not syntax:  # pydicom then guesses it
        implicit, little = elements.original_encoding
        syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return Header(path, elements, str(syntax), pixel_bytes)


def read_slices(header: Header, where: str) -> Iterator[Slice]:
    """Check and yield a file's frames. Raises RlvoError if one has no place in a volume, or no HU."""
    elements = header.elements
    try:
        if int(elements.get("NumberOfFrames") or 1) != header.frames:
            fix = "Export one file per slice, or NIfTI (dcm2niix)"
            raise RlvoError("several frames in one file without their positions", where=where, fix=fix)
        size = int(elements.Rows), int(elements.Columns)
        if min(size) < 1 or max(size) > MAX_SIDE:
            what = f"a size of {size[1]}×{size[0]} pixels is implausible for a CT slice"
            raise RlvoError(what, where=where, fix=ORIGINAL)
        if not header.decodable:
            what = f"its pixels are encoded as {_name_syntax(header.syntax)}, for which there is no decoder here"
            raise RlvoError(what, where=where, fix="Export it uncompressed, or as lossless JPEG or JPEG 2000")
        promised = size[0] * size[1] * header.frames * int(elements.BitsAllocated) // 8
        if header.compressed or header.syntax == RLELossless:
            if header.pixel_bytes > 2 * promised + 4096:
                raise RlvoError(MORE, where=where, fix=EXPORT_AGAIN)
        elif header.pixel_bytes < promised:
            raise RlvoError(FEWER, where=where, fix=EXPORT_AGAIN)
        for frame in range(header.frames):
            yield _read_slice(header, frame, size, where)
    except DICOM_FAULTS:
        raise RlvoError("the file is damaged: its geometry cannot be read", where=where, fix=EXPORT_AGAIN) from None


def _name_syntax(syntax: str) -> str:
    """Name a transfer syntax; give its number if it is not known."""
    name = str(pydicom.uid.UID(syntax).name)
    if name != syntax:
        return name
    return f"transfer syntax {syntax}" if re.fullmatch(r"[\d.]{1,64}", syntax) else "an unknown transfer syntax"


def _read_slice(header: Header, frame: int, size: tuple[int, int], where: str) -> Slice:
    slope, intercept = (header.element(keyword, frame) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if slope is None or intercept is None:
        what = "rescale slope or intercept is missing, so its values are not HU"
        raise RlvoError(what, where=where, fix="Give the original CT series")
    geometry = {}
    for keyword, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        if not header.element(keyword, frame):
            raise RlvoError(f"{keyword} is missing", where=where, fix=ORIGINAL)
        geometry[keyword] = np.array(header.element(keyword, frame), dtype=float).reshape(count)
    orientation = geometry["ImageOrientationPatient"].reshape(2, 3)
    if not np.isfinite(np.concatenate([*geometry.values(), [float(slope), float(intercept)]])).all():
        raise RlvoError("a number in its geometry or rescaling is not finite", where=where, fix=EXPORT_AGAIN)
    row_step, column_step = (float(value) for value in geometry["PixelSpacing"])
    low, high = SPACING_RANGE
    if not (low <= row_step <= high and low <= column_step <= high):
        what = f"pixel size {row_step:g} × {column_step:g} mm is implausible for CT"
        raise RlvoError(what, where=where, fix=EXPORT_AGAIN)
    if np.abs(orientation @ orientation.T - np.eye(2)).max() > 1e-2:
        raise RlvoError("its row and column directions are not orthogonal", where=where, fix=EXPORT_AGAIN)
    orientation = orientation / np.linalg.norm(orientation, axis=1, keepdims=True)
    position = geometry["ImagePositionPatient"]
    spacing, acquisition = (column_step, row_step), header.acquisition(frame)
    return Slice(header, size, position, orientation, spacing, float(slope), float(intercept), acquisition)
