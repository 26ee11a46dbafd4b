"""NIfTI files: read as nibabel reads them, and everything that is not one finite 3-D volume refused in one line."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from rlvo.errors import RlvoError
from rlvo.imaging.reading import read_volume

SHAPE = (9, 10, 11)
AFFINE = np.array([[-1.5, 0, 0, 20], [0, 2, 0, -30], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def image(array: np.ndarray | None = None, affine: np.ndarray | None = AFFINE, kind: Any = nibabel.Nifti1Image) -> Any:
    values = np.random.default_rng(0).integers(-1000, 1000, SHAPE) if array is None else array
    return kind(values.astype(values.dtype if array is not None else np.int16), affine)


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int32", "float32", "float64", "uint16"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_same_as_nibabel(tmp_path: Path, dtype: str, suffix: str) -> None:
    written = image(np.random.default_rng(1).integers(0, 200, SHAPE).astype(dtype))
    path = tmp_path / f"ct{suffix}"
    nibabel.save(written, path)
    volume, expected = read_volume(path), nibabel.as_closest_canonical(nibabel.load(path))
    np.testing.assert_array_equal(volume.array, expected.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-6)
    assert volume.array.dtype == np.float32
    assert volume.notes == ()


def test_slope_byte_order_version_and_trailing_dimension(tmp_path: Path) -> None:
    stored = np.arange(np.prod(SHAPE)).reshape(*SHAPE, 1).astype(">i2")
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        header = kind.header_class(endianness=">")
        header.set_data_dtype(">i2")
        written = kind(stored, AFFINE, header)
        written.header.set_slope_inter(2.0, -1024.0)
        path = tmp_path / "big.nii"
        written.to_filename(path)
        expected = nibabel.as_closest_canonical(nibabel.squeeze_image(nibabel.load(path)))
        np.testing.assert_array_equal(read_volume(path).array, expected.get_fdata(dtype=np.float32))


def test_oblique_orientation_is_kept(tmp_path: Path) -> None:
    angle = 0.3
    affine = AFFINE.copy()
    affine[1:3, 1:3] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * [2, 3]
    nibabel.save(image(affine=affine), tmp_path / "ct.nii")
    volume = read_volume(tmp_path / "ct.nii")
    assert volume.notes == ()
    np.testing.assert_allclose(volume.spacing, [1.5, 2, 3], atol=1e-5)


def test_sheared_axes_are_resampled_along_true_positions(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[1, 2] = 1.2
    gradient = np.array([3.0, -2.0, 1.0])
    points = np.indices((20, 24, 16)).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    array = (points @ gradient).reshape(20, 24, 16).astype(np.float32)
    nibabel.save(image(array, affine), tmp_path / "ct.nii")
    volume = read_volume(tmp_path / "ct.nii")
    assert volume.notes == ("sheared axes (gantry tilt) resampled",)
    ras = np.indices(volume.array.shape).reshape(3, -1).T @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    written_at = (ras - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    inside = ((written_at >= 0) & (written_at <= np.array(array.shape) - 1)).all(axis=1)
    assert inside.sum() > 0.8 * array.size
    np.testing.assert_allclose(volume.array.reshape(-1)[inside], (ras @ gradient)[inside], atol=1e-3)


def test_no_orientation_is_told(tmp_path: Path) -> None:
    written = image()
    written.header["sform_code"] = written.header["qform_code"] = 0
    (tmp_path / "ct.nii").write_bytes(written.to_bytes())
    path = tmp_path / "ct.nii"
    nibabel.load(path)
    header = bytearray(path.read_bytes())
    header[252:256] = b"\0" * 4  # qform_code and sform_code
    path.write_bytes(header)
    assert "left and right are a guess" in read_volume(path).doubts[0]


def edited(path: Path, offset: int, value: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[offset : offset + len(value)] = value
    path.write_bytes(content)


def write_with(array: np.ndarray, affine: np.ndarray = AFFINE) -> Callable[[Path], None]:
    return lambda path: nibabel.save(image(array, affine), path)


def write_edited(offset: int, value: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        nibabel.save(image(), path)
        edited(path, offset, np.asarray(value).tobytes())

    return write


def write_cut(size: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        nibabel.save(image(), path)
        path.write_bytes(path.read_bytes()[:size])

    return write


def write_longer(path: Path) -> None:
    nibabel.save(image(), path)
    path.write_bytes(path.read_bytes() + b"\0" * 64)


RGB = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
ONE_NAN, ONE_INFINITY = np.zeros(SHAPE, dtype=np.float32), np.zeros(SHAPE, dtype=np.float32)
ONE_NAN[1, 2, 3], ONE_INFINITY[1, 2, 3] = np.nan, np.inf

MALFORMED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "empty file"),
    "text": (lambda path: path.write_text("patient,age\n" * 100), "not a NIfTI file"),
    "short header": (write_cut(200), "not a NIfTI file|truncated"),
    "header only": (write_cut(352), "truncated"),
    "truncated": (write_cut(1500), "truncated: fewer bytes"),
    "longer": (write_longer, "more bytes"),
    "2-D": (write_with(np.zeros((9, 10), dtype=np.int16)), "2-D"),
    "4-D": (write_with(np.zeros((*SHAPE, 2), dtype=np.int16)), "4-D"),
    "5-D": (write_with(np.zeros((*SHAPE, 1, 3), dtype=np.int16)), "5-D"),
    "RGB": (write_with(RGB), "colour or complex"),
    "complex": (write_with(np.zeros(SHAPE, dtype=np.complex64)), "colour or complex"),
    "NaN": (write_with(ONE_NAN), "NaN or infinite"),
    "infinity": (write_with(ONE_INFINITY), "NaN or infinite"),
    "zero spacing": (write_edited(80, np.float32(0)), "no CT's"),
    "NaN spacing": (write_edited(84, np.float32(np.nan)), "no CT's"),
    "metres": (write_edited(123, np.uint8(1)), "not in millimetres"),
    "flat axes": (write_edited(280, np.float32([0, 0, 3, 5])), "no CT's|do not span|contradict"),
    "NaN affine": (write_edited(280, np.float32(np.nan)), "no valid orientation"),
    "contradiction": (write_edited(80, np.float32([0.5, 0.5, 0.5])), "contradict"),
    "negative size": (write_edited(42, np.int16(-9)), "size of"),
    "dimensions": (write_edited(40, np.int16(99)), "99 dimensions"),
    "huge": (write_edited(42, np.int16([30000, 30000, 30000])), "larger than"),
    "data type": (write_edited(70, np.int16(77)), "unknown data type"),
    "offset": (write_edited(108, np.float32(np.nan)), "where the voxels begin"),
    "infinite slope": (write_edited(112, np.float32(np.inf)), "scales the values by infinity"),
    "header pair": (write_edited(344, np.frombuffer(b"ni1\0", dtype=np.uint8)), "single-file"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    write, words = MALFORMED[name]
    path = tmp_path / "ein Bild ü.nii"
    write(path)
    with pytest.raises(RlvoError, match=words) as refusal:
        read_volume(path, patient="007")
    text = str(refusal.value)
    assert text.startswith(f"patient 007, {path}: ")
    assert "\n" not in text
    assert refusal.value.fix


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ct.nii.gz"
    nibabel.save(image(), path)
    whole = path.read_bytes()
    for cut in (2, 100, len(whole) // 2, len(whole) - 9, len(whole) - 4):
        path.write_bytes(whole[:cut])
        with pytest.raises(RlvoError, match="truncated"):
            read_volume(path)
    path.write_bytes(whole[:-8] + b"\0\0\0\0" + whole[-4:])
    with pytest.raises(RlvoError, match="damaged gzip"):
        read_volume(path)


def test_decompression_stops_at_the_promised_size(tmp_path: Path) -> None:
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(image().to_bytes())
        for _ in range(64):
            file.write(bytes(1 << 20))
    with pytest.raises(RlvoError, match="more bytes"):
        read_volume(path)


def test_paths_that_are_no_volumes(tmp_path: Path) -> None:
    with pytest.raises(RlvoError, match="no such file"):
        read_volume(tmp_path / "missing.nii", patient="1")
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    with pytest.raises(RlvoError):
        read_volume(tmp_path / "loop.nii")
    (tmp_path / "ct.png").write_bytes(b"\x89PNG")
    with pytest.raises(RlvoError, match="neither a NIfTI file nor a folder"):
        read_volume(tmp_path / "ct.png")
    with pytest.raises(RlvoError, match="neither a regular file nor a folder"):
        read_volume(Path("/dev/null"))
