"""A catalogue of inputs that are not one good head CT, and of good ones with odd headers.

`CASES` builds each in an empty folder and says what must come of it. As a script it reads them with rlvo in a process
of its own, which may die of them: `catalogue.py NAME PATH ...` prints one JSON line per case.
"""

import functools
import gzip
import json
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

LIMIT_BYTES = 1 << 30
LIMIT_SECONDS = 60
SERIES = "1.2.826.0.1.3680043.8.498.9"
AXIAL = np.array([[1.0, 0, 0], [0, 1, 0]])
PIXEL_MM, SLICE_MM = 4.0, 5.0
EDGES = np.diag([-PIXEL_MM, PIXEL_MM, SLICE_MM, 1])


@functools.cache
def head() -> np.ndarray:
    """A ball of brain in a shell of bone and scalp in air, int16 HU, 4×4×5 mm: enough to pass for a head CT in HU."""
    places = np.indices((48, 56, 36)) - np.reshape([24, 28, 18], (3, 1, 1, 1))
    radius = np.linalg.norm(places * np.reshape([PIXEL_MM, PIXEL_MM, SLICE_MM], (3, 1, 1, 1)), axis=0)
    noise = np.random.default_rng(0).normal(0, 4, radius.shape)
    return (np.select([radius < 64, radius < 72, radius < 80], [35, 900, 10], -1000) + noise).astype(np.int16)


def write_dicom(path: Path, pixels: np.ndarray, position: Any, orientation: Any = AXIAL, **elements: Any) -> Path:
    """One CT slice of stored values [row, column]; keywords replace or (None) remove elements; `syntax`: encoding."""
    syntax = elements.pop("syntax", ExplicitVRLittleEndian)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = elements.get("SOPClassUID") or CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    encoding = {"is_implicit_VR": syntax == ImplicitVRLittleEndian, "is_little_endian": syntax != ExplicitVRBigEndian}
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128, **encoding)
    order = ">i2" if syntax == ExplicitVRBigEndian else "<i2"
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": SERIES,
        "Modality": "CT",
        "InstanceNumber": int(np.sum(position)) + 1000,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientName": "Nobody^Nowhere",
        "PatientID": "SECRET",
        "ImagePositionPatient": [round(float(value), 6) for value in position],
        "ImageOrientationPatient": [float(f"{value:.10f}") for value in np.ravel(orientation)],
        "PixelSpacing": [PIXEL_MM, PIXEL_MM],
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": "1",
        "RescaleIntercept": "0",
        "PixelData": pixels.astype(order).tobytes(),
    } | elements
    for keyword, value in values.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW"
    dataset["PixelData"].is_undefined_length = syntax.is_compressed
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, name: str = "", heights: Any = None, edit: Any = None, **elements: Any) -> Path:
    """The head as one DICOM file a slice; `edit(number)` gives further elements of a slice (None: leave it out)."""
    folder.mkdir(exist_ok=True)
    stored = head()
    heights = SLICE_MM * np.arange(stored.shape[2]) if heights is None else heights
    for number, height in enumerate(heights):
        of_slice = edit(number) if edit else {}
        if of_slice is not None:
            values = (
                {"pixels": stored[:, :, number % stored.shape[2]].T, "position": [0, 0, height]} | elements | of_slice
            )
            path = folder / f"{name}{number:03d}.dcm"
            if elements or of_slice:
                write_dicom(path, **values)
            else:
                path.write_bytes(plain_slice(number, float(height)))
    return folder


@functools.cache
def plain_slice(number: int, height: float) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write_dicom(Path(folder) / "a.dcm", head()[:, :, number].T, [0, 0, height]).read_bytes()


def functional_groups(**groups: dict[str, Any]) -> Dataset:
    """A dataset of functional groups, by name without "Sequence", with these elements."""
    dataset = Dataset()
    for name, elements in groups.items():
        item = Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        setattr(dataset, f"{name}Sequence", [item])
    return dataset


def enhanced_acquisitions(path: Path, number: Callable[[int], int]) -> Path:
    """The head as one enhanced CT, its frames of the acquisitions that `number` gives."""
    return write_enhanced(path, lambda frame: functional_groups(FrameContent={"FrameAcquisitionNumber": number(frame)}))


def write_enhanced(path: Path, edit: Any = None, **elements: Any) -> Path:
    """The head as one enhanced multi-frame CT; `edit(number)` gives further functional groups of a frame."""
    stored = head()
    frames = []
    for number in range(stored.shape[2]):
        frames.append(functional_groups(PlanePosition={"ImagePositionPatient": [0, 0, SLICE_MM * number]}))
        frames[-1].update(edit(number) if edit else {})
    shared = functional_groups(
        PixelMeasures={"PixelSpacing": [PIXEL_MM, PIXEL_MM]},
        PlaneOrientation={"ImageOrientationPatient": AXIAL.ravel().tolist()},
        PixelValueTransformation={"RescaleSlope": "1", "RescaleIntercept": "0"},
    )
    own = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    own |= dict.fromkeys(("RescaleSlope", "RescaleIntercept"))
    sequences = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    others = {"SOPClassUID": EnhancedCTImageStorage, "NumberOfFrames": len(frames)}
    return write_dicom(path, stored.T, [0, 0, 0], **(own | sequences | others | elements))


Builder = Callable[[Path], Path]


def nifti(array: np.ndarray | None = None, affine: Any = EDGES, name: str = "ct.nii", kind: Any = None) -> Builder:
    def build(folder: Path) -> Path:
        image = (kind or nibabel.Nifti1Image)(head() if array is None else array, affine)
        nibabel.save(image, folder / name)
        return folder / name

    return build


def content(name: str, edit: Callable[[bytes], bytes]) -> Builder:
    """A good NIfTI file, its bytes edited and named anew."""

    def build(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(edit(nifti()(folder).read_bytes()))
        return path

    return build


def changed(offset: int, *values: Any) -> Builder:
    """A good NIfTI whose header holds other bytes from `offset` on."""
    new = b"".join(value.tobytes() for value in values)
    return content("ct.nii", lambda whole: whole[:offset] + new + whole[offset + len(new) :])


def packed(edit: Callable[[bytes], bytes]) -> Builder:
    """A good compressed NIfTI file, its compressed bytes edited."""
    return content("a.nii.gz", lambda whole: edit(gzip.compress(whole)))


def series(**options: Any) -> Builder:
    return lambda folder: write_series(folder / "series", **options)


def one_other(**elements: Any) -> Builder:
    """A good series whose tenth slice differs."""
    return series(edit=lambda number: elements if number == 10 else {})


def beside(**elements: Any) -> Builder:
    """A good series and one more file with these elements."""
    values = {"pixels": np.zeros((56, 48)), "position": [0, 0, 20]} | elements
    return in_series(lambda folder: write_dicom(folder / "zzz.dcm", **values))


def slice_bytes(edit: Callable[[bytes], bytes]) -> Builder:
    """A good series, the bytes of its tenth file edited."""
    return in_series(lambda folder: (folder / "010.dcm").write_bytes(edit((folder / "010.dcm").read_bytes())))


def linked(name: str, target: str) -> Builder:
    def build(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder / name

    return build


def in_series(make: Callable[[Path], Any]) -> Builder:
    """A good series whose folder holds one thing more."""

    def build(folder: Path) -> Path:
        path = write_series(folder / "series")
        make(path)
        return path

    return build


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "ct.nii")
    return folder / "ct.nii"


def crowd(folder: Path) -> Path:
    for number in range(20_001):
        os.mknod(folder / str(number))
    return folder


def bomb(folder: Path) -> Path:
    """A header that keeps its promise: 600 MB of zeros in 600 kB."""
    start = content("ct.nii", lambda whole: whole[:352])(folder).read_bytes()
    dims = struct.pack("<4h", 3, 512, 512, 1200)
    zeros = gzip.compress(bytes(1 << 20))
    (folder / "ct.nii.gz").write_bytes(gzip.compress(start[:40] + dims + start[48:]) + 600 * zeros)
    return folder / "ct.nii.gz"


def endless(folder: Path) -> Path:
    """A good volume, and a gigabyte of zeros after it."""
    whole = nifti()(folder).read_bytes()
    (folder / "ct.nii.gz").write_bytes(gzip.compress(whole) + 1024 * gzip.compress(bytes(1 << 20)))
    return folder / "ct.nii.gz"


def deflated(folder: Path) -> Path:
    """A slice whose data set inflates to 4 GB."""
    path = write_series(folder / "series", heights=[0.0]) / "000.dcm"
    whole = path.read_bytes()
    start = whole[: whole.index(b"\x08\x00")].replace(ExplicitVRLittleEndian.encode(), b"1.2.840.10008.1.2.1.99", 1)
    start = start.replace(b"UI\x14\x001.2.840.10008.1.2.1.99", b"UI\x16\x001.2.840.10008.1.2.1.99")
    packer = zlib.compressobj(wbits=-15)
    zeros = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)  # may follow itself
    path.write_bytes(start + 256 * zeros + packer.flush())
    return path.parent


def rle_bomb(size: int) -> bytes:
    """An RLE frame of `size` bytes that become 64 times as many."""
    return encapsulate([struct.pack("<16L", 2, 64, 64 + size // 2, *[0] * 13) + b"\x81\0" * (size // 2)])


def long_element(whole: bytes) -> bytes:
    """An element before the pixels that claims 4 GB."""
    at = whole.index(b"\x08\x00\x60\x00CS")
    return whole[:at] + b"\x08\x00\x61\x00OB\0\0\xf0\xff\xff\xff" + whole[at:]


def empty_items(whole: bytes) -> bytes:
    """A sequence of half a million empty items before the pixels."""
    at = whole.index(b"\x08\x00\x60\x00CS")
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\xfe\xff\x0d\xe0\0\0\0\0"
    return whole[:at] + b"\x08\x00\x61\x00SQ\0\0\xff\xff\xff\xff" + item * (1 << 19) + whole[at:]


def two_scans(folder: Path) -> Path:
    write_series(folder / "series", "a", SeriesInstanceUID=f"{SERIES}.1", AcquisitionNumber=1)
    return write_series(folder / "series", "b", SeriesInstanceUID=f"{SERIES}.2", AcquisitionNumber=2)


def without_preamble(folder: Path, meta: bool = True, **elements: Any) -> Path:
    """A good series without the 132 bytes that mark DICOM, or also without the file's meta group; no suffix either."""
    path = write_series(folder / "series", **elements)
    for file in list(path.iterdir()):
        whole = file.read_bytes()[132:]
        length = int.from_bytes(whole[8:12], "little")
        file.with_suffix("").write_bytes(whole if meta else whole[12 + length :])
        file.unlink()
    return path


def with_syntax(uid: str) -> Builder:
    """A good series whose header names another transfer syntax of as many characters."""
    old = ExplicitVRLittleEndian.encode()

    def build(folder: Path) -> Path:
        path = write_series(folder / "series")
        for file in path.iterdir():
            file.write_bytes(file.read_bytes().replace(b"\x14\0" + old, b"\x14\0" + uid.encode(), 1))
        return path

    return build


def across(path: Path) -> None:
    """A coronal scout as large as the slices, and a sagittal one that is not."""
    write_dicom(path / "000-scout.dcm", np.full((56, 48), 77), [0, 100, 0], [[1, 0, 0], [0, 0, -1]])
    write_dicom(path / "zzz.dcm", np.full((30, 48), 77), [100, 0, 0], [[0, 1, 0], [0, 0, -1]])


def apple(path: Path) -> None:
    for file in list(path.iterdir()):
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7" + bytes(100))


def linked_series(folder: Path) -> Path:
    """A study's folder that holds its series as a link."""
    (folder / "study").mkdir()
    (folder / "study" / "CT").symlink_to(series()(folder))
    return folder / "study"


def group_length(whole: bytes) -> bytes:
    """The length of the pixels' group before them, as some archives write it."""
    at = whole.index(b"\xe0\x7f\x10\0")
    return whole[:at] + b"\xe0\x7f\0\0UL\4\0" + struct.pack("<L", len(whole) - at) + whole[at:]


def wrapped(bits: int) -> np.ndarray:
    """The head with dense bone, in signed numbers of so many bits less the intercept."""
    dense = head().astype(int) + 500 * (head() > 500) + 1024 + (1 << bits - 1)
    return (dense % (1 << bits) - (1 << bits - 1) - 1024).astype(np.int16)


def big_endian(array: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(array, affine, nibabel.Nifti1Header(endianness=">"))


def with_value(value: float) -> np.ndarray:
    return np.where(np.arange(head().size).reshape(head().shape) == 999, np.float32(value), head())


SHEARED = EDGES + np.array([[0, 0, 0, 0], [0, 0, 1.2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
TINY = b"\x08\x00\x5f\x10CS\0\0" * (1 << 19)
RGB = np.zeros((9, 10, 11), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
RGBA = np.zeros((9, 10, 11), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
HU = head().astype(np.float32)
NO_STREAM = encapsulate([b"\xff\x4f" * 9])


@dataclass(frozen=True)
class Case:
    """How to build an input, and what must come of it: words of the refusal, doubt or note; "" is read as it is."""

    build: Builder
    outcome: str
    words: str = ""


def refused(build: Builder, words: str) -> Case:
    return Case(build, "refused", words)


CASES: dict[str, Case] = {
    # no NIfTI at all
    "no such file": refused(lambda folder: folder / "ct.nii", "no such file"),
    "name too long": refused(lambda folder: folder / f"{'x' * 300}.nii", "cannot be read: file name too long"),
    "symlink loop": refused(linked("ct.nii", "ct.nii"), "symbolic links"),
    "dangling link": refused(linked("ct.nii", "nowhere.nii"), "no such file"),
    "named pipe": refused(fifo, "neither a regular file"),
    "device": refused(linked("ct.nii", "/dev/zero"), "neither a regular file"),
    "empty file": refused(content("ct.nii", lambda whole: b""), "the file is empty"),
    "text": refused(content("ct.nii", lambda whole: b"patient,age\n" * 100), "not a NIfTI file"),
    "picture": refused(content("ct.png", lambda whole: b"\x89PNG\r\n\x1a\n" + whole), "neither a NIfTI"),
    "picture named .nii": refused(content("a.nii", lambda whole: b"\x89PNG\r\n\x1a\n" + whole), "not a NIfTI"),
    "DICOM named .nii": refused(
        lambda folder: write_dicom(folder / "ct.nii", HU[:, :, 3], [0, 0, 0]), "a single DICOM"
    ),
    "NIfTI named .dcm": refused(content("ct.dcm", lambda whole: whole), "damaged or not DICOM"),
    "Analyze pair": refused(changed(344, np.frombuffer(b"ni1\0", "u1")), "Join .hdr and .img"),
    # bytes that are missing, or too many
    "short header": refused(content("a.nii", lambda whole: whole[:300]), "ends within its header"),
    "header only": refused(content("a.nii", lambda whole: whole[:352]), "truncated: fewer"),
    "truncated": refused(content("a.nii", lambda whole: whole[:-1000]), "truncated: fewer"),
    "longer": refused(content("a.nii", lambda whole: whole + bytes(64)), "more bytes"),
    "truncated gzip": refused(packed(lambda whole: whole[:-2000]), "gzip file is truncated"),
    "damaged gzip": refused(packed(lambda whole: whole[:-8] + bytes(8)), "gzip file is damaged"),
    "gzip, too short inside": refused(content("a.nii.gz", lambda whole: gzip.compress(whole[:-9])), "truncated: fewer"),
    "gzip bomb": refused(bomb, "more than a CT of"),
    "endless gzip": refused(endless, "more bytes"),
    # headers
    "huge header": refused(changed(40, np.int16([3, 30000, 30000, 30000])), "larger than any head CT"),
    "large header": refused(changed(40, np.int16([3, 512, 512, 1100])), "truncated: fewer"),
    "no dimensions": refused(changed(40, np.int16([0, 0, 0, 0])), "0 dimensions"),
    "99 dimensions": refused(changed(40, np.int16(99)), "99 dimensions"),
    "negative size": refused(changed(42, np.int16(-9)), "size of"),
    "2-D": refused(nifti(HU[:, :, 9]), "2-D"),
    "4-D": refused(nifti(np.zeros((9, 10, 11, 2), np.int16)), "4-D"),
    "5-D": refused(nifti(np.zeros((64, 64, 40, 1, 3), np.uint8)), "5-D"),
    "colour": refused(nifti(RGB), "colours, complex"),
    "colour and opacity": refused(nifti(RGBA), "colours, complex"),
    "complex": refused(nifti(np.zeros((9, 10, 11), np.complex64)), "colours, complex"),
    "unknown data type": refused(changed(70, np.int16(77)), "unknown data type"),
    "bits": refused(changed(70, np.int16([1, 1])), "colours, complex"),
    "quadruple precision": refused(changed(70, np.int16([1536, 128])), "colours, complex"),
    "voxels at NaN": refused(changed(108, np.float32(np.nan)), "where the voxels begin"),
    "voxels in the header": refused(changed(108, np.float32(12)), "where the voxels begin"),
    "voxels far away": refused(changed(108, np.float32(1e6)), "truncated: fewer"),
    "zero spacing": refused(changed(80, np.float32(0)), "implausible for CT"),
    "NaN spacing": refused(changed(84, np.float32(np.nan)), "implausible for CT"),
    "spacing in metres": refused(changed(123, np.uint8(1)), "not in millimetres"),
    "spacing against orientation": refused(changed(80, np.float32([0.5, 0.5, 0.5])), "contradict"),
    "NaN orientation": refused(changed(280, np.float32(np.nan)), "no valid orientation"),
    "flat orientation": refused(changed(280, np.float32([-4, 4, 0, 0, 0, 0, 0, 0])), "do not span"),
    "infinite slope": refused(changed(112, np.float32(np.inf)), "scales the values by infinity"),
    "overflowing slope": refused(changed(112, np.float32(3e38)), "NaN or infinite"),
    "no orientation": Case(changed(252, np.int16([0, 0])), "doubt", "left and right are a guess"),
    "orientations disagree": Case(changed(252, np.int16([1, 2]), np.float32([0, 0, 1])), "doubt", "contradict each"),
    "shear": Case(nifti(affine=SHEARED), "note", "sheared axes"),
    # values
    "NaN": refused(nifti(with_value(np.nan)), "NaN or infinite"),
    "infinity": refused(nifti(with_value(np.inf)), "NaN or infinite"),
    "beyond single precision": refused(nifti(head() * 1e300), "NaN or infinite"),
    "all air": refused(nifti(np.full_like(HU, -1000)), "every voxel is -1000"),
    "all zero": refused(nifti(np.zeros_like(HU)), "every voxel is 0"),
    "offset by 1024": refused(nifti(HU + 1024), "without the rescale intercept"),
    "intercept twice": refused(nifti(HU - 1024), "applied twice"),
    "ten times HU": refused(nifti(HU * 10), "ten times HU"),
    "a tenth of HU": refused(nifti(HU / 10), "a tenth of HU"),
    "normalised": refused(nifti((HU + 1100) / 2500), "grey values (0–1)"),
    "windowed": refused(nifti(np.clip(HU + 20, 0, 255).astype(np.uint8)), "grey values (0–255)"),
    "unsigned": refused(nifti(head().astype(np.uint16)), "large positive"),
    "without air": refused(nifti(np.where(HU < -500, 0, HU)), "no air"),
    "one slice": refused(nifti(HU[:, :, 20:21]), "too small"),
    "read as 12 bits": refused(nifti(HU % 4096), "wrapped at 4096"),
    "dense bone in 12 bits": refused(nifti(wrapped(12)), "wrapped at 4096: dense bone became lower than air"),
    "a value no CT has": refused(nifti(np.where(HU > 700, 62512, HU)), "which no CT has"),
    # DICOM folders
    "empty folder": refused(lambda folder: folder, "no DICOM file in it"),
    "folder of text": refused(lambda folder: (folder / "a.txt").write_text("a") and folder, "no DICOM file in it"),
    "folder of NIfTI": refused(lambda folder: nifti()(folder) and folder, "no DICOM file in it"),
    "20,001 files": refused(crowd, "more than 20000 files"),
    "text named .dcm": refused(in_series(lambda path: (path / "a.dcm").write_text("a")), "damaged or not DICOM"),
    "pipe in the folder": refused(in_series(lambda path: os.mkfifo(path / "a.dcm")), "not a regular file"),
    "link loop in the folder": refused(in_series(lambda path: (path / "a.dcm").symlink_to("a.dcm")), "not a regular"),
    "folder in itself": Case(in_series(lambda path: (path / "again").symlink_to(path)), "read"),
    "two scans": refused(two_scans, f"2 series to choose from: {SERIES}.1"),
    "no such series": refused(
        lambda folder: series()(folder).with_name("series#1.2.3"), f"no CT series 1.2.3, only {SERIES}"
    ),
    "one slice file": refused(lambda folder: series()(folder) / "003.dcm", "Give the folder of the series"),
    "few slices": refused(series(heights=[0.0, 5, 10]), "only 3 slice"),
    "magnetic resonance": refused(series(Modality="MR"), "only modality MR"),
    "localizer": refused(series(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "only localizer"),
    "MIPS in its description": refused(series(SeriesDescription="AX MIPS"), "only projection"),
    "MIP in its image type": refused(series(ImageType=["DERIVED", "SECONDARY", "CT_SOM5 MIP"]), "only projection"),
    "JPEG Extended": refused(series(syntax=JPEGExtended12Bit, PixelData=NO_STREAM), "as JPEG Extended (Process 2 and"),
    "high-throughput JPEG": refused(series(syntax=HTJ2KLossless, PixelData=NO_STREAM), "there is no decoder here"),
    "an unknown encoding": refused(with_syntax("1.2.840.113619.5.2\0"), "as transfer syntax 1.2.840.113619.5.2"),
    "projection": refused(series(ImageType=["DERIVED", "SECONDARY", "MIP"]), "only projection"),
    "secondary capture": refused(series(SOPClassUID=SecondaryCaptureImageStorage), "only secondary capture"),
    "colour slices": refused(series(SamplesPerPixel=3), "only colour"),
    "no rescale": refused(one_other(RescaleSlope=None), "rescale slope or intercept is missing"),
    "no position": refused(one_other(ImagePositionPatient=None), "ImagePositionPatient is missing"),
    "no pixel spacing": refused(one_other(PixelSpacing=None), "PixelSpacing is missing"),
    "zero pixel spacing": refused(one_other(PixelSpacing=[0.0, 4.0]), "implausible for CT"),
    "infinite position": refused(slice_bytes(lambda whole: whole.replace(b"50.0", b"inf ")), "not finite"),
    "skewed pixels": refused(one_other(orientation=[[1, 0, 0], [0.5, 1, 0]]), "not orthogonal"),
    "two sizes": refused(one_other(pixels=np.zeros((9, 9))), "differ in size"),
    "two orientations": refused(one_other(orientation=[[0, 1, 0], [1, 0, 0]]), "differ in orientation"),
    "a slice aside": refused(one_other(position=[9, 0, 50]), "do not follow one line"),
    "two images at one place": refused(beside(), "two different images"),
    "interleaved acquisitions": refused(
        series(edit=lambda number: {"AcquisitionNumber": 1 + number % 2}), "2 acquisitions that interleave: 1 (18"
    ),
    "interleaved acquisitions in one file": refused(
        lambda folder: enhanced_acquisitions(folder / "ct.dcm", lambda frame: 1 + frame % 2),
        "2 acquisitions that interleave: 1 (18",
    ),
    "eight slices missing": refused(series(edit=lambda number: None if 9 < number < 18 else {}), "a gap of 45.0 mm"),
    "huge slice": refused(one_other(Rows=65535, Columns=65535), "65535×65535 pixels"),
    "pixels missing": refused(one_other(PixelData=b"\0" * 100), "fewer bytes"),
    "truncated slice": refused(slice_bytes(lambda whole: whole[:-900]), "fewer bytes"),
    "truncated in its header": refused(slice_bytes(lambda whole: whole[:400]), "damaged"),
    "empty slice": refused(slice_bytes(lambda whole: b""), "damaged or not DICOM"),
    "element of 4 GB": refused(slice_bytes(long_element), "damaged"),
    "endless header": refused(slice_bytes(lambda whole: whole.replace(b"\x08\x00\x60\x00CS", TINY, 1)), "damaged"),
    "endless sequence": refused(slice_bytes(empty_items), "damaged"),
    "frames without places": refused(one_other(NumberOfFrames=2), "several frames"),
    "deflated bomb": refused(deflated, "whole file is deflated"),
    "RLE bomb": refused(one_other(syntax=RLELossless, PixelData=rle_bomb(1 << 22)), "more bytes"),
    "RLE, damaged": refused(one_other(syntax=RLELossless, PixelData=encapsulate([bytes(99)])), "cannot be decoded"),
    "JPEG 2000, damaged": refused(series(syntax=JPEG2000Lossless, PixelData=NO_STREAM), "cannot be decoded"),
    "stored values in DICOM": refused(series(RescaleIntercept="1024"), "without the rescale intercept"),
    "a slice missing": Case(series(edit=lambda number: None if number == 20 else {}), "doubt", "slice seems to be"),
    "a slice twice": Case(in_series(lambda path: shutil.copy(path / "005.dcm", path / "a.dcm")), "note", "1 duplicate"),
    "irregular gaps": Case(series(heights=np.r_[0:80:4, 80:160:5]), "note", "irregular slice gaps 4.0/5.0 mm"),
    "gantry tilt": Case(series(orientation=[[1, 0, 0], [0, 0.96, -0.28]]), "note", "gantry tilt of 16.3°"),
    "localizer beside": Case(beside(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "note", "left out (localizer)"),
    "scouts in the series": Case(in_series(across), "note", "2 scout(s) among the slices left out"),
    # good ones, oddly written
    "AppleDouble in the folder": Case(in_series(apple), "read"),
    "a link to its folder": Case(linked_series, "read"),
    "DICOM without preamble": Case(without_preamble, "read"),
    "DICOM without meta group": Case(lambda folder: without_preamble(folder, meta=False), "read"),
    "implicit DICOM without meta group": Case(
        lambda folder: without_preamble(folder, meta=False, syntax=ImplicitVRLittleEndian), "read"
    ),
    "group length in DICOM": Case(slice_bytes(group_length), "read"),
    "DICOM without modality": Case(series(Modality=None), "read"),
    "DICOM without class": Case(series(SOPClassUID=None), "read"),
    "unicode and spaces": Case(nifti(name="Schädel ü 頭 1.nii.gz"), "read"),
    "capitals": Case(nifti(name="CT.NII.GZ"), "read"),
    "# in its name": Case(nifti(name="ct#1.nii"), "read"),
    "gzip named .nii": Case(content("a.nii", gzip.compress), "read"),
    "NIfTI-2": Case(nifti(kind=nibabel.Nifti2Image), "read"),
    "big-endian": Case(nifti(kind=big_endian), "read"),
    "double precision": Case(nifti(HU.astype(np.float64)), "read"),
    "one volume of 4-D": Case(nifti(head()[..., None]), "read"),
    "implicit DICOM": Case(series(syntax=ImplicitVRLittleEndian), "read"),
    "big-endian DICOM": Case(series(syntax=ExplicitVRBigEndian), "read"),
    "enhanced DICOM": Case(lambda folder: write_enhanced(folder / "ct.dcm"), "read"),
    "enhanced DICOM of sequential scans": Case(
        lambda folder: enhanced_acquisitions(folder / "ct.dcm", lambda frame: 1 + frame // 12), "read"
    ),
    "DICOM below folders": Case(lambda folder: series()(folder).parent, "read"),
    "series by its UID": Case(lambda folder: series()(folder).with_name(f"series#{SERIES}"), "read"),
}


def build_all(folder: Path) -> dict[str, Path]:
    """Every case's path, built below `folder`."""
    paths = {}
    for number, (name, case) in enumerate(CASES.items()):
        place = folder / f"{number:03d}"
        place.mkdir(parents=True)
        paths[name] = case.build(place)
    return paths


def with_rlvo(path: Path) -> tuple[str, str]:
    from rlvo.errors import RlvoError
    from rlvo.imaging.plausibility import check_head_ct
    from rlvo.imaging.reading.source import read_volume

    try:
        volume = read_volume(path, patient="007")
        check_head_ct(volume, f"patient 007, {path}")
    except RlvoError as error:
        return "refused", str(error)
    kind = "doubt" if volume.doubts else "note" if volume.notes else "read"
    return kind, "; ".join((*volume.doubts, *volume.notes))


def peak_bytes() -> int:
    """Largest resident memory of this process since the last call."""
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) << 10
    Path("/proc/self/clear_refs").write_text("5")
    return peak


def read_paths(read: Callable[[Path], tuple[str, str]], *names_and_paths: str) -> None:
    """Read paths within 1 GB above what the libraries take and `LIMIT_SECONDS` each; print one JSON line per case."""
    with_good = nifti(name="good.nii")(Path(names_and_paths[1]).parents[1])
    read(with_good)
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + LIMIT_BYTES, virtual + LIMIT_BYTES))
    for name, path in zip(names_and_paths[::2], names_and_paths[1::2], strict=True):
        signal.alarm(LIMIT_SECONDS)
        peak_bytes()
        start = time.perf_counter()
        try:
            kind, words = read(Path(path))
        except Exception as error:  # noqa: BLE001 - what readers raise is what is asked
            kind, words = f"raised {type(error).__name__}", str(error)
        seconds = time.perf_counter() - start
        result = {"name": name, "kind": kind, "words": words, "seconds": round(seconds, 3), "peak": peak_bytes()}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    read_paths(with_rlvo, *sys.argv[1:])
