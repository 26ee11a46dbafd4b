"""NIfTI files, read as nibabel reads them; what is refused is in test_malformed."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from support.heads import rigid

from rlvo.errors import RlvoError
from rlvo.imaging.reading.source import read_volume

SHAPE = (9, 10, 11)
AFFINE = np.array([[-1.5, 0, 0, 20], [0, 2, 0, -30], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def random_hu(dtype: Any = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, SHAPE).astype(dtype)


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int32", "float32", "float64", "uint16"])
@pytest.mark.parametrize(
    ("name", "affine"), [("ct.nii", AFFINE), ("ct.nii.gz", rigid(0.3, [1, 0, 0], [0, 0, 0]) @ AFFINE)]
)
def test_same_as_nibabel(tmp_path: Path, dtype: str, name: str, affine: np.ndarray) -> None:
    path = save(tmp_path / name, random_hu(dtype), affine)
    volume, expected = read_volume(path), nibabel.as_closest_canonical(nibabel.load(path))
    np.testing.assert_array_equal(volume.array, expected.get_fdata(dtype=np.float32))
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-6)
    assert volume.array.dtype == np.float32
    assert volume.notes == ()
    np.testing.assert_allclose(volume.spacing, [1.5, 2, 3], atol=1e-5)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_slope_byte_order_version_and_trailing_dimension(tmp_path: Path, kind: Any) -> None:
    stored = np.arange(np.prod(SHAPE)).reshape(*SHAPE, 1).astype(">i2")
    header = kind.header_class(endianness=">")
    header.set_data_dtype(">i2")
    written = kind(stored, AFFINE, header)
    written.header.set_slope_inter(2.0, -1024.0)
    path = tmp_path / "big.nii"
    written.to_filename(path)
    expected = nibabel.as_closest_canonical(nibabel.squeeze_image(nibabel.load(path)))
    np.testing.assert_array_equal(read_volume(path).array, expected.get_fdata(dtype=np.float32))


def test_sheared_axes_are_resampled_along_true_positions(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[1, 2] = 1.2
    gradient = np.array([3.0, -2.0, 1.0])
    points = np.indices((20, 24, 16)).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    array = (points @ gradient).reshape(20, 24, 16).astype(np.float32)
    volume = read_volume(save(tmp_path / "ct.nii", array, affine))
    assert volume.notes == ("sheared axes (gantry tilt) resampled",)
    ras = np.indices(volume.array.shape).reshape(3, -1).T @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    written_at = (ras - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    inside = ((written_at >= 0) & (written_at <= np.array(array.shape) - 1)).all(axis=1)
    assert inside.sum() > 0.8 * array.size
    np.testing.assert_allclose(volume.array.reshape(-1)[inside], (ras @ gradient)[inside], atol=1e-3)


def test_gzip_files_cut_anywhere_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "ct.nii.gz", random_hu())
    whole = path.read_bytes()
    for cut in (2, 100, len(whole) // 2, len(whole) - 9, len(whole) - 4):
        path.write_bytes(whole[:cut])
        with pytest.raises(RlvoError, match="truncated"):
            read_volume(path)
