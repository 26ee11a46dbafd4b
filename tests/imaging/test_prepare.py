"""One patient, from files to the grid."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from support.heads import head_on
from support.volumes import FOCUS

from rlvo.config.grid import PRESETS, Grid
from rlvo.errors import RlvoError
from rlvo.imaging.alignment.atlas import brain_mask
from rlvo.imaging.alignment.on_grid import GRID_LIMITS
from rlvo.imaging.prepare import preparation_key, prepare
from rlvo.imaging.target import Target
from rlvo.report.pictures import draw_overlay

TARGET = Target(grid=FOCUS)
RNG = np.random.default_rng(0)


def save(path: Path, array: np.ndarray, affine: np.ndarray = FOCUS.affine) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def noisy_head() -> np.ndarray:
    return np.rint(head_on(FOCUS) + RNG.normal(0, 5, FOCUS.shape)).astype(np.int16)


def on_grid(path: Path) -> Path:
    return save(path, noisy_head())


def test_volumes_on_the_grid_pass_clipped(tmp_path: Path) -> None:
    ncct, cta = on_grid(tmp_path / "n.nii.gz"), on_grid(tmp_path / "c.nii.gz")
    bright = (np.asarray(nibabel.load(cta).dataobj) > 60) & (head_on(FOCUS) < 60)
    vessels = save(tmp_path / "v.nii.gz", bright.astype(np.uint8))
    prepared = prepare(TARGET, ncct, cta, vessels)
    assert all(np.array_equal(transform, np.eye(4)) for transform in prepared.transforms.values())
    assert prepared.warnings == ()
    grid_figures = {f"{role}/{figure}" for role in ("ncct", "cta") for figure in GRID_LIMITS}
    assert set(prepared.figures) == {"vessels/asymmetry", *grid_figures}
    for name, path, window in (("ncct", ncct, (0, 100)), ("cta", cta, (0, 400))):
        expected = np.clip(nibabel.load(path).get_fdata(), *window).astype(np.float16)
        np.testing.assert_array_equal(prepared.volumes[name], expected)
        assert prepared.volumes[name].dtype == np.float16
    np.testing.assert_array_equal(prepared.volumes["vessels"], nibabel.load(vessels).get_fdata())
    assert prepared.volumes["vessels"].dtype == np.uint8


def test_a_volume_stored_left_to_right_on_the_grid_passes_too(tmp_path: Path) -> None:
    array = np.clip(noisy_head(), 0, 100)
    flipped = FOCUS.affine @ np.diag([-1, 1, 1, 1])
    flipped[0, 3] = FOCUS.affine[0, 3] + 4 * (FOCUS.shape[0] - 1)
    prepared = prepare(TARGET, save(tmp_path / "n.nii", array[::-1], flipped), None, None)
    np.testing.assert_array_equal(prepared.volumes["ncct"], array)
    assert all(np.array_equal(transform, np.eye(4)) for transform in prepared.transforms.values())


def test_only_what_is_given_is_there(tmp_path: Path) -> None:
    prepared = prepare(TARGET, None, on_grid(tmp_path / "c.nii"), None)
    assert set(prepared.volumes) == {"cta"}
    assert prepared.doubts == ()
    assert prepared.notes == ("CTA: too coarse to find vessels in; give a mask if you want the vessel prior",)
    with pytest.raises(RlvoError, match="neither NCCT nor CTA is given") as refusal:
        prepare(TARGET, None, None, None, patient="5")
    assert "patient 5" in str(refusal.value)


def test_the_same_file_twice_is_told(tmp_path: Path) -> None:
    path = on_grid(tmp_path / "c.nii")
    prepared = prepare(TARGET, path, path, None)
    assert "NCCT and CTA are the same scan" in prepared.warnings
    np.testing.assert_array_equal(prepared.volumes["ncct"], np.minimum(prepared.volumes["cta"], 100))


def test_vessel_masks_that_cannot_be_one(tmp_path: Path) -> None:
    cta = on_grid(tmp_path / "c.nii")
    with pytest.raises(RlvoError, match="vessel mask fills"):
        prepare(TARGET, None, cta, cta, patient="5")
    empty = save(tmp_path / "v.nii", np.zeros(FOCUS.shape, dtype=np.uint8))
    assert "vessel mask: it is empty on the grid" in prepare(TARGET, None, cta, empty).warnings


def test_a_mask_in_atlas_space_beside_a_cta_on_the_grid_is_resampled(tmp_path: Path) -> None:
    fine = Grid(shape=(128, 96, 80), spacing=(1, 1, 1), origin=(-63.5, -36.5, -41.5))
    mask = np.zeros(fine.shape, dtype=np.uint8)
    mask[64:68, 48:52, 40:44] = 1
    prepared = prepare(TARGET, None, on_grid(tmp_path / "c.nii"), save(tmp_path / "v.nii", mask, fine.affine))
    np.testing.assert_array_equal(np.argwhere(prepared.volumes["vessels"]), [[16, 12, 10]])


def test_what_is_no_head_ct_is_refused_in_one_line(tmp_path: Path) -> None:
    path = save(tmp_path / "mr.nii", RNG.integers(0, 900, (50, 50, 50)).astype(np.int16), np.diag([4.0, 4, 4, 1]))
    with pytest.raises(RlvoError, match="no air near") as refusal:
        prepare(TARGET, path, None, None, patient="5")
    assert str(refusal.value).startswith(f"patient 5, {path}: ")


@pytest.mark.parametrize("role", ["ncct", "cta"])
def test_a_volume_on_the_grid_is_checked_too(tmp_path: Path, role: str) -> None:
    sound, turned = on_grid(tmp_path / "good.nii"), save(tmp_path / "turned.nii", noisy_head()[:, :, ::-1])
    offset = save(tmp_path / "offset.nii", noisy_head() + 1024)
    for path, words in ((turned, "upside down"), (offset, "without the rescale intercept")):
        files = {"ncct": sound, "cta": sound, role: path}
        with pytest.raises(RlvoError, match=words) as refusal:
            prepare(TARGET, files["ncct"], files["cta"], None, patient="5")
        assert str(refusal.value).startswith(f"patient 5, {path}: ")


def test_the_key_depends_on_the_grid() -> None:
    assert len({preparation_key(Target(grid=grid)) for grid in PRESETS.values()}) == len(PRESETS)


@pytest.mark.slow
def test_real_head_as_ncct_and_cta(real: Path, tmp_path: Path) -> None:
    folder = real / "head_ct_tilted_dicom"
    prepared = prepare(TARGET, folder, folder, None, patient="5")
    assert not np.array_equal(prepared.transforms["cta"], np.eye(4))
    assert prepared.warnings == (
        "NCCT and CTA are the same scan",
        "CTA: it shows no contrast",
        "NCCT and CTA: gantry tilt of 18.5° corrected",
        "NCCT and CTA: irregular slice gaps 1.1/4.2/7.4 mm resampled",
    )
    assert {array.shape for array in prepared.volumes.values()} == {FOCUS.shape}
    assert not prepared.volumes["vessels"].any()
    assert 20 < np.median(prepared.volumes["ncct"][brain_mask(FOCUS)]) < 40
    assert prepared.figures["cta/mutual_information"] > 0.7
    picture = tmp_path / "pictures" / "5.png"
    draw_overlay(prepared, FOCUS, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
