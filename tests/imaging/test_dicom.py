"""DICOM folders: where slices really lie, and what is refused.

Images are linear functions of the true position: linear interpolation must reproduce them, whatever the tilt, the gaps
or the orientation.
"""

import random
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pytest
from pydicom.uid import generate_uid

from rlvo.errors import RlvoError
from rlvo.imaging.reading import read_volume
from rlvo.imaging.volume import Volume

ROWS, COLUMNS, ROW_STEP, COLUMN_STEP = 20, 24, 0.8, 0.6
GRADIENT, OFFSET = np.array([2.0, -3.0, 1.5]), 40.0
"""HU per mm along LPS x, y, z; HU at the origin."""
FIRST = np.array([-7.0, -8.0, 5.0])
"""Position of the first slice, LPS mm."""
UP = np.array([0, 0, 1.0])
AXIAL = np.array([[1.0, 0, 0], [0, 1, 0]])
EVEN = 3.0 * np.arange(8)


def tilted(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    return np.array([[1.0, 0, 0], [0, np.cos(angle), -np.sin(angle)]])


def hu(points: np.ndarray) -> np.ndarray:
    return points @ GRADIENT + OFFSET


def write_series(write_slice: Any, heights: Any = EVEN, orientation: np.ndarray = AXIAL, **elements: Any) -> Path:
    """Slices at `heights` along z whose pixels hold `hu` of their position, stored with slope 0.1 and intercept −50."""
    row, column = orientation
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    for number, height in enumerate(heights):
        position = FIRST + height * UP
        points = position + columns[..., None] * COLUMN_STEP * row + rows[..., None] * ROW_STEP * column
        stored = np.rint((hu(points) + 50) / 0.1)
        folder: Path = write_slice(f"{number:03d}.dcm", stored, position, orientation, **elements)
    return folder


def check_linear(
    volume: Volume, length: float, orientation: np.ndarray = AXIAL, first: Any = FIRST, along: Any = (0, 0, 1)
) -> None:
    """Where the scan reaches (`length` mm of slices `along` a line), voxels hold `hu` of where the affine puts them."""
    indices = np.indices(volume.array.shape).reshape(3, -1).T
    points = (indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]) * [-1, -1, 1]
    scan = np.linalg.solve(np.column_stack([*orientation, along]), (points - first).T).T
    size = np.array([(COLUMNS - 1) * COLUMN_STEP, (ROWS - 1) * ROW_STEP, length])
    inside = ((scan > -1e-4) & (scan < size + 1e-4)).all(axis=1)
    assert inside.sum() * np.prod(volume.spacing) > 0.8 * np.prod(size) * abs(np.dot(np.cross(*orientation), along))
    np.testing.assert_allclose(volume.array.reshape(-1)[inside], hu(points)[inside], atol=0.1)  # 0.05: stored digits


def test_even_axial_series(write_slice: Any) -> None:
    volume = read_volume(write_series(write_slice))
    assert volume.notes == ()
    assert volume.array.shape == (COLUMNS, ROWS, len(EVEN))
    np.testing.assert_allclose(volume.spacing, [COLUMN_STEP, ROW_STEP, 3.0], atol=1e-6)
    assert (np.diag(volume.affine)[:3] > 0).all()
    check_linear(volume, 21)


def test_gantry_tilt_is_corrected_along_true_positions(write_slice: Any) -> None:
    volume = read_volume(write_series(write_slice, orientation=tilted(18.5)))
    assert volume.notes == ("gantry tilt of 18.5° corrected",)
    axes = volume.affine[:3, :3] / volume.spacing
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(volume.spacing[2], 3 * np.cos(np.radians(18.5)), atol=1e-4)
    check_linear(volume, 21, tilted(18.5))


def test_irregular_gaps_are_resampled(write_slice: Any) -> None:
    heights = [0, 1.5, 5.7, 9.9, 17.3, 24.7]
    volume = read_volume(write_series(write_slice, heights))
    assert volume.notes == ("irregular slice gaps 1.5/4.2/7.4 mm resampled",)
    np.testing.assert_allclose(volume.spacing[2], 1.5)
    check_linear(volume, 24)


def test_tilt_and_gaps_together(write_slice: Any) -> None:
    volume = read_volume(write_series(write_slice, [0, 1.5, 5.7, 9.9, 17.3, 24.7], tilted(-12)))
    assert len(volume.notes) == 2
    check_linear(volume, 24, tilted(-12))


def test_order_of_files_and_direction_of_slices_do_not_matter(write_slice: Any) -> None:
    check_linear(read_volume(write_series(write_slice, EVEN[::-1])), 21)


@pytest.mark.parametrize("orientation", [[[0, 1, 0], [0, 0, -1]], [[1, 0, 0], [0, 0, -1]], [[-1, 0, 0], [0, -1, 0]]])
def test_other_orientations_keep_their_place(write_slice: Any, orientation: Any) -> None:
    row, column = np.array(orientation, dtype=float)
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    for number in range(5):
        position = FIRST + 2 * number * np.cross(row, column)
        points = position + columns[..., None] * COLUMN_STEP * row + rows[..., None] * ROW_STEP * column
        folder = write_slice(f"{number}.dcm", np.rint((hu(points) + 50) * 10), position, orientation)
    volume = read_volume(folder)
    assert (volume.affine[:3, :3].max(axis=0) > 0).all()
    check_linear(volume, 8, np.array([row, column]), along=np.cross(row, column))


def test_padding_becomes_air(write_slice: Any) -> None:
    folder = write_series(write_slice)
    pixels = np.full((ROWS, COLUMNS), -20000)
    write_slice("000.dcm", pixels, FIRST, AXIAL)
    assert read_volume(folder).array[..., 0].max() == -1000


def test_localizers_text_files_and_identical_copies_are_left_out(write_slice: Any) -> None:
    folder = write_series(write_slice)
    write_slice("scout.dcm", np.zeros((9, 9)), np.zeros(3), AXIAL, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_slice("other.dcm", np.zeros((9, 9)), np.zeros(3), AXIAL, SeriesInstanceUID=generate_uid())
    (folder / "LICENSE").write_text("some words")
    (folder / "copy.dcm").write_bytes((folder / "003.dcm").read_bytes())
    volume = read_volume(folder)
    assert volume.notes == (
        "1 image(s) left out (localizer)",
        "1 slice(s) of other series left out",
        "1 duplicate slice(s) dropped",
    )
    check_linear(volume, 21)


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"Modality": "MR"}, "no CT slice, only modality MR"),
        ({"SamplesPerPixel": 3}, "no CT slice, only colour"),
        ({"RescaleSlope": None}, "no rescale slope"),
        ({"ImagePositionPatient": None}, "no ImagePositionPatient"),
        ({"PixelData": b"\0" * 100}, "damaged"),
        ({"PixelSpacing": [0.0, 0.6]}, "no CT's"),
        ({"NumberOfFrames": 2}, "several frames"),
    ],
)
def test_slices_that_are_refused(write_slice: Any, elements: dict[str, Any], words: str) -> None:
    folder = write_series(write_slice, **elements)
    with pytest.raises(RlvoError, match=words) as refusal:
        read_volume(folder, patient="007")
    assert "patient 007" in str(refusal.value)
    assert str(folder) in str(refusal.value)
    assert refusal.value.fix


def test_series_that_are_refused(write_slice: Any, tmp_path: Path) -> None:
    folder = write_series(write_slice)
    last = FIRST + 21 * UP
    zeros = np.zeros((ROWS, COLUMNS))

    def refused(words: str, **slice_: Any) -> None:
        values = {"name": "extra.dcm", "pixels": zeros, "position": last, "orientation": AXIAL} | slice_
        write_slice(**values)
        with pytest.raises(RlvoError, match=words):
            read_volume(folder)
        (folder / "extra.dcm").unlink()

    refused("two different images")
    refused("different orientation", orientation=tilted(10))
    refused("different size", pixels=np.zeros((9, 9)))
    refused("gap of 40.0 mm", position=last + 40 * UP)
    refused("do not follow one line", position=last + 3 * UP + 15 * AXIAL[0])
    for number in range(4):
        write_slice(f"second-{number}.dcm", zeros, FIRST + 7 * number * UP, AXIAL, SeriesInstanceUID="1.2.3")
    with pytest.raises(
        RlvoError, match=r"2 series that may be meant: .*1\.2\.3 \(4 slices every 7 mm, contrast unknown"
    ):
        read_volume(folder)


def test_too_few_slices_and_empty_folders(write_slice: Any, tmp_path: Path) -> None:
    with pytest.raises(RlvoError, match=r"only 3 slice"):
        read_volume(write_series(write_slice, EVEN[:3]))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(RlvoError, match="holds no DICOM"):
        read_volume(empty)


def test_a_truncated_slice_is_not_passed_over(write_slice: Any) -> None:
    folder = write_series(write_slice)
    for size in (0, 80, 400):
        (folder / "004.dcm").write_bytes((folder / "004.dcm").read_bytes()[:size] if size else b"")
        with pytest.raises(RlvoError, match=r"damaged or not DICOM|no "):
            read_volume(folder)


JPEG = {
    "lossless": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "2000": gdcm.TransferSyntax.JPEG2000Lossless,
    "LS": gdcm.TransferSyntax.JPEGLSLossless,
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


@pytest.mark.parametrize("name", JPEG)
def test_compressed_slices_are_read_as_they_were(write_slice: Any, name: str) -> None:
    folder = write_series(write_slice)
    plain = read_volume(folder)
    compress(folder, JPEG[name])
    compressed = read_volume(folder)
    np.testing.assert_array_equal(compressed.array, plain.array)
    assert (compressed.notes, compressed.doubts) == (plain.notes, ())


def test_compression_with_loss_is_a_doubt(write_slice: Any) -> None:
    assert read_volume(write_series(write_slice, LossyImageCompression="01")).doubts == ("compressed with loss",)


@pytest.mark.slow
@pytest.mark.parametrize("name", JPEG)
def test_no_damaged_stream_ends_the_process(write_slice: Any, name: str) -> None:
    folder = write_series(write_slice)
    compress(folder, JPEG[name])
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
