"""The side with fewer vessels, on masks made for it and on synthetic patients."""

import numpy as np
import pytest

from rlvo.config.grid import PRESETS, Grid
from rlvo.imaging.laterality import ASYMMETRY, side_doubts, vessel_asymmetry
from rlvo.synthetic.phantom import make_phantom
from rlvo.synthetic.vessels import Lesion

FOCUS = PRESETS["focus"]


def mask_with(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros(FOCUS.shape, dtype=np.uint8)
    for box in boxes:
        mask[box] = 1
    return mask


def test_asymmetry_is_right_minus_left_over_both() -> None:
    right, left = slice(24, 27), slice(7, 8)  # x 34…42 and −34 mm
    mask = mask_with((right, slice(8, 12), slice(10, 12)), (left, slice(8, 12), slice(10, 12)))
    assert vessel_asymmetry(mask, FOCUS) == pytest.approx((3 - 1) / (3 + 1))
    assert vessel_asymmetry(mask[::-1], FOCUS) == pytest.approx(-0.5)


def test_midline_and_too_few_vessels_say_nothing() -> None:
    assert np.isnan(vessel_asymmetry(mask_with((slice(12, 16), slice(None), slice(None))), FOCUS))
    few = mask_with((slice(24, 25), slice(8, 10), slice(10, 12)))  # 4 voxels of 0.064 mL
    assert np.isnan(vessel_asymmetry(few, FOCUS))
    assert side_doubts({ASYMMETRY: float("nan")}, "left") == ()


def test_grids_elsewhere_measure_the_same_place() -> None:
    fine = Grid(shape=(150, 120, 90), spacing=(1, 1, 1), origin=(-74.5, -60, -40))
    mask = np.zeros(fine.shape, dtype=np.uint8)
    mask[100:120, 40:60, 40:60] = 1
    assert vessel_asymmetry(mask, fine) == 1
    assert vessel_asymmetry(mask[::-1], fine) == -1


def test_only_the_clearly_poorer_side_contradicts() -> None:
    assert side_doubts({ASYMMETRY: 0.5}, "left") == side_doubts({ASYMMETRY: -0.2}, "left") == ()
    assert side_doubts({ASYMMETRY: -0.5}, None) == side_doubts({}, "left") == ()
    (words,) = side_doubts({ASYMMETRY: -0.5}, "left")
    assert "fewer vessels on the right" in words
    assert "occlusion_side is left" in words


def test_synthetic_occlusions_are_seen_and_never_on_the_other_side() -> None:
    rng = np.random.default_rng(0)
    caught = 0
    for number in range(30):
        side, site = ("left", "right")[number % 2], ("TICA", "M1", "M2")[number % 3]
        vessels = make_phantom(Lesion(side, site, rng.normal(), 0.0), FOCUS, rng, full_images=False).vessels
        figures = {ASYMMETRY: vessel_asymmetry(vessels, FOCUS)}
        assert side_doubts(figures, side) == ()
        caught += side_doubts(figures, "right" if side == "left" else "left") != ()
    assert caught >= 20
