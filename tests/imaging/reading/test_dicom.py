"""DICOM series: where slices really are, and compressed pixels; what is refused is in test_malformed.

Images are linear functions of the true position: linear interpolation must reproduce them, whatever the tilt, the gaps
or the orientation.
"""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from support import catalogue
from support.catalogue import AXIAL, functional_groups, head, write_dicom, write_enhanced

from rlvo.errors import RlvoError
from rlvo.imaging.reading.source import read_volume
from rlvo.imaging.volume import Volume

ROWS, COLUMNS, ROW_STEP, COLUMN_STEP = 20, 24, 0.8, 0.6
GRADIENT, OFFSET = np.array([2.0, -3.0, 1.5]), 40.0
"""HU per mm along LPS x, y, z; HU at the origin."""
FIRST = np.array([-7.0, -8.0, 5.0])
"""Position of the first slice, LPS mm."""
UP = np.array([0, 0, 1.0])
EVEN, UNEVEN = 3.0 * np.arange(8), [0, 1.5, 5.7, 9.9, 17.3, 24.7]
GAPS = "irregular slice gaps 1.5/4.2/7.4 mm resampled"


def tilted(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    return np.array([[1.0, 0, 0], [0, np.cos(angle), -np.sin(angle)]])


def hu(points: np.ndarray) -> np.ndarray:
    return points @ GRADIENT + OFFSET


def write_slice(
    folder: Path, name: str, position: np.ndarray, orientation: np.ndarray = AXIAL, pixels: Any = None, **elements: Any
) -> Path:
    """One slice whose pixels hold `hu` of their position, stored with slope 0.1 and intercept −50; the folder."""
    row, column = orientation
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    points = position + columns[..., None] * COLUMN_STEP * row + rows[..., None] * ROW_STEP * column
    usual = {"PixelSpacing": [ROW_STEP, COLUMN_STEP], "RescaleSlope": "0.1", "RescaleIntercept": "-50"}
    stored = np.rint((hu(points) + 50) / 0.1) if pixels is None else pixels
    write_dicom(folder / name, stored, position, orientation, **usual | elements)
    return folder


def write_series(folder: Path, heights: Any = EVEN, orientation: np.ndarray = AXIAL, **elements: Any) -> Path:
    """Slices at `heights` along z."""
    for number, height in enumerate(heights):
        write_slice(folder, f"{number:03d}.dcm", FIRST + height * UP, orientation, **elements)
    return folder


def check_linear(volume: Volume, length: float, orientation: np.ndarray = AXIAL, along: Any = UP) -> None:
    """Where the scan reaches (`length` mm of slices `along` a line), voxels hold `hu` of where the affine puts them."""
    indices = np.indices(volume.array.shape).reshape(3, -1).T
    points = (indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]) * [-1, -1, 1]
    scan = np.linalg.solve(np.column_stack([*orientation, along]), (points - FIRST).T).T
    size = np.array([(COLUMNS - 1) * COLUMN_STEP, (ROWS - 1) * ROW_STEP, length])
    inside = ((scan > -1e-4) & (scan < size + 1e-4)).all(axis=1)
    assert inside.sum() * np.prod(volume.spacing) > 0.8 * np.prod(size) * abs(np.dot(np.cross(*orientation), along))
    np.testing.assert_allclose(volume.array.reshape(-1)[inside], hu(points)[inside], atol=0.1)  # 0.05: stored digits


@pytest.mark.parametrize(
    ("heights", "degrees", "spacing", "notes"),
    [
        (EVEN, 0, 3, []),
        (EVEN[::-1], 0, 3, []),
        (EVEN, 18.5, 3 * np.cos(np.radians(18.5)), ["gantry tilt of 18.5° corrected"]),
        (UNEVEN, 0, 1.5, [GAPS]),
        (UNEVEN, -12, 1.5 * np.cos(np.radians(12)), ["gantry tilt of 12.0° corrected", GAPS]),
    ],
)
def test_order_tilt_and_gaps_follow_true_positions(
    tmp_path: Path, heights: Any, degrees: float, spacing: float, notes: list[str]
) -> None:
    volume = read_volume(write_series(tmp_path, heights, tilted(degrees)))
    assert list(volume.notes) == notes
    axes = volume.affine[:3, :3] / volume.spacing
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(volume.spacing, [COLUMN_STEP, ROW_STEP, spacing], atol=1e-6)
    assert (np.diag(volume.affine)[:3] > 0).all()
    if not notes:
        assert volume.array.shape == (COLUMNS, ROWS, len(EVEN))
    check_linear(volume, max(heights), tilted(degrees))


@pytest.mark.parametrize("orientation", [[[0, 1, 0], [0, 0, -1]], [[1, 0, 0], [0, 0, -1]], [[-1, 0, 0], [0, -1, 0]]])
def test_other_orientations_keep_their_place(tmp_path: Path, orientation: Any) -> None:
    row, column = np.array(orientation, dtype=float)
    for number in range(5):
        position = FIRST + 2 * number * np.cross(row, column)
        write_slice(tmp_path, f"{number}.dcm", position, np.array([row, column]))
    volume = read_volume(tmp_path)
    assert (volume.affine[:3, :3].max(axis=0) > 0).all()
    check_linear(volume, 8, np.array([row, column]), along=np.cross(row, column))


def test_padding_becomes_air(tmp_path: Path) -> None:
    write_slice(write_series(tmp_path), "000.dcm", FIRST, pixels=np.full((ROWS, COLUMNS), -20000))
    assert read_volume(tmp_path).array[..., 0].max() == -1000


CORNERS = np.add(*np.meshgrid(np.linspace(-1, 1, COLUMNS) ** 2, np.linspace(-1, 1, ROWS) ** 2)) > 1
MIDDLE = np.zeros_like(CORNERS)
MIDDLE[9, 9] = True
UNSIGNED = {"PixelRepresentation": 0, "RescaleIntercept": "-1024", "RescaleSlope": "1"}
TWELVE_BITS = {"BitsStored": 12, "HighBit": 11}


@pytest.mark.parametrize(
    ("where", "value", "elements"),
    [
        (CORNERS, 63536, {}),
        (CORNERS, 63536, TWELVE_BITS),
        (MIDDLE, 63536, TWELVE_BITS | {"PixelPaddingValue": 63536}),
        (MIDDLE, 63536, {"PixelPaddingValue": 63536}),
        (MIDDLE, 64000, {"PixelPaddingValue": 63536, "PixelPaddingRangeLimit": 65535}),
        (CORNERS, 3000, {"PixelPaddingValue": 3000}),
    ],
)
def test_unsigned_padding_becomes_air(tmp_path: Path, where: np.ndarray, value: int, elements: dict[str, Any]) -> None:
    """Declared padding anywhere, and undeclared where it fills the corners alone; −2000 as unsigned is 63536."""
    pixels = np.where(where, value, 1064).astype(np.uint16)
    found = read_volume(write_series(tmp_path, pixels=pixels, **UNSIGNED | elements)).array[..., 0]
    np.testing.assert_array_equal(found[::-1, ::-1].T, np.where(where, -1000, 40))


def test_tissue_is_not_padding_though_the_header_says_so(tmp_path: Path) -> None:
    pixels = np.full((ROWS, COLUMNS), 900)
    found = read_volume(write_series(tmp_path, pixels=pixels, PixelPaddingValue=900)).array[..., 0][::-1, ::-1].T
    assert (found[4:-4, 4:-4] == 40).all()


def test_values_no_ct_has_are_refused_where_they_are_not_padding(tmp_path: Path) -> None:
    pixels = np.where(MIDDLE, 63536, 1064).astype(np.uint16)
    with pytest.raises(RlvoError, match=r"reach 62512 HU, which no CT has.*wrapped at 65536"):
        read_volume(write_series(tmp_path, pixels=pixels, **UNSIGNED))


@pytest.mark.parametrize("compressed", [False, True])
def test_overlays_in_the_high_bits_are_dropped(tmp_path: Path, compressed: bool) -> None:
    pixels = np.where(np.indices((ROWS, COLUMNS))[0] % 2, 1064 | 1 << 12, 1064).astype(np.uint16)
    folder = write_series(tmp_path, pixels=pixels, **UNSIGNED | ({} if compressed else TWELVE_BITS))
    if compressed:  # GDCM would drop them itself if the header told it
        compress(folder, SYNTAXES["2000"])
        for path in folder.iterdir():
            dataset = dcmread(path)
            dataset.BitsStored, dataset.HighBit = 12, 11
            dataset.save_as(path)
    assert np.unique(read_volume(folder).array).tolist() == [40]


def test_localizers_text_files_and_identical_copies_are_left_out(tmp_path: Path) -> None:
    folder, small = write_series(tmp_path), np.zeros((9, 9))
    write_slice(folder, "scout.dcm", np.zeros(3), pixels=small, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_slice(folder, "other.dcm", np.zeros(3), pixels=small, SeriesInstanceUID="1.2.3")
    (folder / "LICENSE").write_text("some words")
    (folder / "copy.dcm").write_bytes((folder / "003.dcm").read_bytes())
    volume = read_volume(folder)
    assert volume.notes == (
        "1 image(s) left out (localizer)",
        "1 slice(s) of other series left out",
        "1 duplicate slice(s) dropped",
    )
    check_linear(volume, 21)


SYNTAXES = {
    "lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "2000": gdcm.TransferSyntax.JPEG2000Lossless,
    "LS": gdcm.TransferSyntax.JPEGLSLossless,
    "RLE": gdcm.TransferSyntax.RLELossless,
}


def compress(folder: Path, syntax: int) -> None:
    """Compress every slice in place, as an archive does."""
    for path in folder.glob("*.dcm"):
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()


@pytest.mark.parametrize("name", SYNTAXES)
def test_compressed_slices_are_read_unchanged(tmp_path: Path, name: str) -> None:
    folder = write_series(tmp_path)
    plain = read_volume(folder)
    compress(folder, SYNTAXES[name])
    compressed = read_volume(folder)
    np.testing.assert_array_equal(compressed.array, plain.array)
    assert (compressed.notes, compressed.doubts) == (plain.notes, ())


@pytest.mark.parametrize(
    ("name", "height", "uid", "highest", "notes"),
    [
        ("group_length_before_pixels.dcm", b"\\47.000", b"1802510", 1468, ()),
        ("j2k_sign_mismatch.dcm", b"\\72.1446", b"657894752", 1896, ("gantry tilt of 22.0° corrected",)),
    ],
)
def test_real_slices_of_other_scanners_are_read(
    real: Path, tmp_path: Path, name: str, height: bytes, uid: bytes, highest: int, notes: tuple[str, ...]
) -> None:
    """One slice, repeated every 5 mm: legal headers that other readers stumble over."""
    whole = (real / "foreign" / name).read_bytes()
    for number in range(4):
        place = f"\\{float(height[1:]) + 5 * number:.4f}"[: len(height)].encode()
        copy = whole.replace(height, place).replace(uid, uid[:-1] + str(number).encode())
        (tmp_path / f"{number}.dcm").write_bytes(copy)
    volume = read_volume(tmp_path)
    assert (volume.array.min(), volume.array.max()) == (-1024, highest)
    assert (volume.notes, volume.doubts) == (notes, ())


def test_compression_with_loss_is_a_doubt(tmp_path: Path) -> None:
    assert read_volume(write_series(tmp_path, LossyImageCompression="01")).doubts == ("compressed with loss",)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lossless", "2000", "LS"])
def test_no_damaged_stream_ends_the_process(tmp_path: Path, name: str) -> None:
    folder = write_series(tmp_path)
    compress(folder, SYNTAXES[name])
    path = folder / "003.dcm"
    sound, chance, refused = path.read_bytes(), random.Random(0), 0
    start = sound.index(b"\xe0\x7f\x10\x00") + 20
    for _ in range(6):
        damaged = bytearray(sound)
        for place in range(start, len(damaged), 9):
            damaged[place] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            read_volume(folder)
        except RlvoError as error:
            refused += "003.dcm" in str(error)
    assert refused >= 4
    path.write_bytes(sound[: start + (len(sound) - start) // 3])
    with pytest.raises(RlvoError, match=r"003\.dcm"):
        read_volume(folder)


def write_acquisitions(folder: Path, *heights: np.ndarray, by: str = "AcquisitionNumber") -> Path:
    """One series of several acquisitions, each with its slices at these heights."""
    for number, own in enumerate(heights, 1):
        value = number if by == "AcquisitionNumber" else f"1.2.3.{number}"
        catalogue.write_series(folder, f"{number}-", own, SeriesInstanceUID="1.2", **{by: value})
    return folder


@pytest.mark.parametrize("by", ["AcquisitionNumber", "IrradiationEventUID"])
@pytest.mark.parametrize(
    ("second", "count"),
    [
        (np.arange(2.5, 180, 5), 36),  # between the slices of the first
        (np.arange(60, 80, 4.9), 5),  # a part scanned again
        (np.arange(160.5, 300, 5), 28),  # the next part, with some overlap
        (np.arange(0, 180, 5.0), 36),  # at the same positions
    ],
)
def test_acquisitions_that_interleave_are_refused_by_name(
    tmp_path: Path, second: np.ndarray, count: int, by: str
) -> None:
    folder = write_acquisitions(tmp_path / "series", np.arange(0, 180, 5.0), second, by=by)
    with pytest.raises(RlvoError, match="of 2 acquisitions that interleave") as refusal:
        read_volume(folder)
    assert f"({count} slices)" in refusal.value.what
    if by == "AcquisitionNumber":
        assert f"1 (36 slices) and 2 ({count} slices)" in refusal.value.what


@pytest.mark.parametrize(
    "heights",
    [
        [np.array([height]) for height in np.arange(0, 180, 5.0)],  # each slice has a number
        [np.arange(start, start + 20, 5.0) for start in np.arange(0, 180, 20)],  # each block
        [np.arange(0, 95, 5.0), np.arange(92.5, 180, 5)],  # two blocks that overlap by a slice
    ],
    ids=["slices", "blocks", "overlap"],
)
def test_sequential_scans_are_read(tmp_path: Path, heights: list[np.ndarray]) -> None:
    assert read_volume(write_acquisitions(tmp_path / "series", *heights)).array.size


ACQUISITIONS: dict[str, tuple[str, str]] = {
    "AcquisitionNumber": ("FrameContent", "FrameAcquisitionNumber"),
    "IrradiationEventUID": ("IrradiationEventIdentification", "IrradiationEventUID"),
}
"""Functional group and element that say which acquisition a frame is of."""


def write_frames(path: Path, of_frame: Callable[[int], int], by: str = "AcquisitionNumber") -> Path:
    """One enhanced file whose frames are of the acquisitions that `of_frame` numbers."""
    group, keyword = ACQUISITIONS[by]

    def groups(frame: int) -> Dataset:
        number = of_frame(frame)
        return functional_groups(**{group: {keyword: number if by == "AcquisitionNumber" else f"1.2.3.{number}"}})

    return write_enhanced(path, groups)


@pytest.mark.parametrize("by", ACQUISITIONS)
@pytest.mark.parametrize(
    "of_frame", [lambda frame: 1 + frame % 2, lambda frame: 2 if 11 < frame < 21 and frame % 2 else 1]
)
def test_acquisitions_that_interleave_in_one_file_are_refused(
    tmp_path: Path, of_frame: Callable[[int], int], by: str
) -> None:
    counts = Counter(map(of_frame, range(head().shape[2])))
    with pytest.raises(RlvoError, match="of 2 acquisitions that interleave") as refusal:
        read_volume(write_frames(tmp_path / "ct.dcm", of_frame, by))
    for number, count in counts.items():
        shown = number if by == "AcquisitionNumber" else "without a number"
        assert f"{shown} ({count} slices)" in refusal.value.what


@pytest.mark.parametrize(
    "of_frame", [lambda frame: 1, lambda frame: frame, lambda frame: 1 + frame // 12], ids=["one", "frames", "blocks"]
)
def test_sequential_scans_in_one_file_are_read(tmp_path: Path, of_frame: Callable[[int], int]) -> None:
    assert read_volume(write_frames(tmp_path / "ct.dcm", of_frame)).array.shape == head().shape


def test_enhanced_files_of_one_series_each_with_its_acquisition(tmp_path: Path) -> None:
    """Frames that do not say which acquisition they are of are of their file's."""
    for number in (1, 2):
        path = write_enhanced(tmp_path / f"{number}.dcm", AcquisitionNumber=number)
        dataset = dcmread(path)
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            frame.PlanePositionSequence[0].ImagePositionPatient[2] += 2.5 * (number - 1)
        dataset.save_as(path)
    with pytest.raises(RlvoError, match=r"acquisitions that interleave: 1 \(36 slices\) and 2 \(36 slices\)"):
        read_volume(tmp_path)
