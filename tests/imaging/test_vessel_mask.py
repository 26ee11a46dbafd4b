"""Vessel masks that do not belong to the scan they come with."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from rlvo.config.grid import PRESETS, Grid
from rlvo.errors import RlvoError
from rlvo.imaging.prepare import Prepared, prepare
from rlvo.imaging.target import Target
from rlvo.synthetic.phantom import PhantomVolumes, make_phantom
from rlvo.synthetic.vessels import Lesion

FOCUS = PRESETS["focus"]
CENTRED = Grid(shape=(32, 32, 20), spacing=(4, 4, 4), origin=(-62, -62, -40))
BESIDE = "vessel mask: most of it is not where the CTA shows contrast: does it belong to this CTA?"


@pytest.fixture(scope="module")
def phantom() -> PhantomVolumes:
    return make_phantom(Lesion("left", "M1", z_cta=0, z_ncct=0), FOCUS, np.random.default_rng(0), full_images=True)


def write(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def prepare_with(
    folder: Path, phantom: PhantomVolumes, mask: np.ndarray, affine: np.ndarray = FOCUS.affine, grid: Grid = FOCUS
) -> Prepared:
    """Prepare the phantom's CTA, which lies on the grid, with a mask."""
    cta = write(folder / "cta.nii", phantom.cta, grid.affine)
    return prepare(Target(grid=grid), None, cta, write(folder / "mask.nii", mask, affine), patient="5")


def moved(x: float, y: float, z: float) -> np.ndarray:
    affine = FOCUS.affine.copy()
    affine[:3, 3] += [x, y, z]
    return affine


@pytest.mark.parametrize(
    ("affine", "named"),
    [
        (moved(30, 0, 0), "[4 0 0 -32; 0 4 0 -35; 0 0 4 -40]"),
        (moved(0, 0, -30), "[4 0 0 -62; 0 4 0 -35; 0 0 4 -70]"),
        (moved(0, 3, 0), "[4 0 0 -62; 0 4 0 -32; 0 0 4 -40]"),
        (np.diag([-1.0, -1, 1, 1]) @ FOCUS.affine, "[4 0 0 -62; 0 4 0 -57; 0 0 4 -40]"),
        (np.eye(4), "[1 0 0 0; 0 1 0 0; 0 0 1 0]"),
        (FOCUS.affine @ np.diag([0.5, 1, 1, 1]), "[2 0 0 -62; 0 4 0 -35; 0 0 4 -40]"),
    ],
    ids=["30 mm to the side", "30 mm below", "3 mm", "LPS as RAS", "identity", "other spacing"],
)
def test_the_scans_array_at_another_place_is_refused(
    phantom: PhantomVolumes, tmp_path: Path, affine: np.ndarray, named: str
) -> None:
    with pytest.raises(RlvoError, match="the CTA's array, but another affine") as refusal:
        prepare_with(tmp_path, phantom, phantom.vessels, affine)
    assert named in refusal.value.what
    assert "[4 0 0 -62; 0 4 0 -35; 0 0 4 -40]" in refusal.value.what
    assert str(refusal.value).startswith(f"patient 5, {tmp_path / 'mask.nii'}: ")


def test_axes_in_another_order_do_not_hide_it(phantom: PhantomVolumes, tmp_path: Path) -> None:
    stored = FOCUS.affine[:, [2, 0, 1, 3]]  # the same places, stored with z first
    mask = np.moveaxis(phantom.vessels, 2, 0)
    np.testing.assert_array_equal(prepare_with(tmp_path, phantom, mask, stored).volumes["vessels"], phantom.vessels)
    with pytest.raises(RlvoError, match="another affine"):
        prepare_with(tmp_path, phantom, mask, np.eye(4))


def test_an_ncct_is_named_where_there_is_no_cta(phantom: PhantomVolumes, tmp_path: Path) -> None:
    ncct = write(tmp_path / "ncct.nii", phantom.ncct, FOCUS.affine)
    with pytest.raises(RlvoError, match="the NCCT's array"):
        prepare(Target(grid=FOCUS), ncct, None, write(tmp_path / "mask.nii", phantom.vessels, np.eye(4)))


@pytest.mark.parametrize("name", ["as it is", "rounded header", "other array"])
def test_sound_masks_pass(phantom: PhantomVolumes, tmp_path: Path, name: str) -> None:
    mask, affine = phantom.vessels, FOCUS.affine
    if name == "rounded header":
        affine = moved(0.1, -0.1, 0) @ np.diag([1.001, 1, 1, 1])
    if name == "other array":
        mask, affine = np.pad(mask, 2), moved(-8, -8, -8)
    prepared = prepare_with(tmp_path, phantom, mask, affine)
    assert prepared.doubts == ()
    same = (prepared.volumes["vessels"] == phantom.vessels).mean()
    assert same > 0.99


@pytest.mark.parametrize("shift", [(0, 8, 0), (8, 0, 0), (0, 0, 8), (0, 0, -8)])
def test_a_mask_beside_the_contrast_is_doubted(
    phantom: PhantomVolumes, tmp_path: Path, shift: tuple[int, int, int]
) -> None:
    assert BESIDE in prepare_with(tmp_path, phantom, np.roll(phantom.vessels, shift, (0, 1, 2))).doubts


def test_a_mask_turned_about_the_middle_is_doubted_though_its_header_fits(tmp_path: Path) -> None:
    """In a centred field of view, LPS written as RAS gives the CTA's own affine."""
    phantom = make_phantom(
        Lesion("right", "M1", z_cta=0, z_ncct=0), CENTRED, np.random.default_rng(1), full_images=True
    )
    assert prepare_with(tmp_path, phantom, phantom.vessels, CENTRED.affine, CENTRED).doubts == ()
    turned = np.diag([-1.0, -1, 1, 1]) @ CENTRED.affine
    assert BESIDE in prepare_with(tmp_path, phantom, phantom.vessels, turned, CENTRED).doubts


def test_bone_is_no_contrast(phantom: PhantomVolumes, tmp_path: Path) -> None:
    assert BESIDE in prepare_with(tmp_path, phantom, (phantom.cta > 750).astype(np.uint8)).doubts


def test_a_mask_outside_the_head_is_doubted(phantom: PhantomVolumes, tmp_path: Path) -> None:
    mask = np.zeros((*FOCUS.shape[:2], 40), dtype=np.uint8)
    mask[10:12, 10:12, 15:] = 1  # from inside the CTA to far above it
    doubts = prepare_with(tmp_path, phantom, mask).doubts
    assert [doubt for doubt in doubts if doubt.startswith("vessel mask: ") and "is outside the head" in doubt]
