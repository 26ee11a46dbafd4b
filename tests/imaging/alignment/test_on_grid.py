"""Volumes that lie on the grid already: sound heads pass, whatever else has their geometry is refused by its name."""

from collections.abc import Callable

import numpy as np
import pytest
from support.heads import head_on

from rlvo.config.grid import HEAD_BOX, PRESETS, Grid, crop, over_field_of_view
from rlvo.errors import RlvoError
from rlvo.imaging.alignment.atlas import built_in_atlas
from rlvo.imaging.alignment.on_grid import GRID_LIMITS, TURNS, check_on_grid
from rlvo.imaging.alignment.quality import Assessment
from rlvo.synthetic.phantom import make_phantom
from rlvo.synthetic.vessels import Lesion

FOCUS, WHOLE = PRESETS["focus"], PRESETS["whole"]
COARSE = Grid(shape=(16, 16, 16), spacing=(8, 8, 8), origin=(-60, -78, -52))
HEAD = crop(over_field_of_view((49, 58, 47)), *HEAD_BOX)
GRIDS = {"focus": FOCUS, "whole": WHOLE, "coarse": COARSE, "head": HEAD}
RNG = np.random.default_rng(0)


def check(hu: np.ndarray, grid: Grid) -> Assessment:
    return check_on_grid(hu, grid, built_in_atlas(), "patient 5")


def noisy_head(grid: Grid) -> np.ndarray:
    return head_on(grid) + RNG.normal(0, 8, grid.shape).astype(np.float32)


def to_grey(hu: np.ndarray, low: float, high: float) -> np.ndarray:
    """As a picture is written: a window in 0–255."""
    return np.rint(255 * (np.clip(hu, low, high) - low) / (high - low))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_sound_heads_pass_clipped_or_not(grid: Grid) -> None:
    head = noisy_head(grid)
    for hu in (head, np.clip(head, 0, 100).astype(np.float16), np.clip(head, 0, 400)):
        assessment = check(hu, grid)
        assert assessment.doubtful == ()
        assert set(assessment.figures) == set(GRID_LIMITS)
    assert check(head[::-1], grid).doubtful == ()  # left and right look alike


@pytest.mark.parametrize("name", ["focus", "whole", "head"])
def test_synthetic_heads_pass(name: str) -> None:
    for seed in range(3):
        lesion = Lesion("left", "M1", z_cta=seed - 1, z_ncct=1 - seed)
        phantom = make_phantom(lesion, GRIDS[name], np.random.default_rng(seed), full_images=True)
        assert check(phantom.ncct, GRIDS[name]).doubtful == ()
        assert check(phantom.cta, GRIDS[name]).doubtful == ()


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (lambda hu: hu + 1024, "look like stored values without the rescale intercept"),
        (lambda hu: hu - 1024, "as if the rescale intercept was applied twice"),
        (lambda hu: 10 * hu, "are ten times HU"),
        (lambda hu: hu / 10, "are a tenth of HU"),
        (lambda hu: (hu - hu.mean()) / hu.std(), "the median of the brain is"),
        (lambda hu: to_grey(hu, hu.min(), hu.max()) / 255, r"grey values \(0–1\)"),
        (lambda hu: to_grey(hu, hu.min(), hu.max()), r"grey values \(0–255\)"),
        (lambda hu: to_grey(hu, 0, 100), r"grey values \(0–255\)"),
        (lambda hu: to_grey(hu, 0, 400), r"grey values \(0–255\)"),
        (lambda hu: np.zeros_like(hu), "every voxel is 0"),
        (lambda hu: np.full_like(hu, 40), "hardly resembles the atlas"),
        (lambda hu: np.full_like(hu, np.nan), "not a head CT in HU"),
        (lambda hu: RNG.uniform(-1000, 1500, hu.shape), "not a head CT in HU"),
        (lambda hu: RNG.normal(40, 8, hu.shape), "hardly resembles the atlas"),
        (lambda hu: RNG.integers(0, 90, hu.shape), "hardly resembles the atlas"),
        (lambda hu: hu[:, :, ::-1], "times as well as upside down"),
        (lambda hu: hu[:, ::-1], "times as well as back to front"),
        (lambda hu: hu[:, ::-1, ::-1], "times as well as back to front and upside down"),
        (lambda hu: hu[::-1, ::-1, ::-1], "times as well as back to front and upside down"),
    ],
)
def test_what_is_no_head_in_hu_as_the_atlas_lies_is_refused(
    grid: Grid, alter: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    with pytest.raises(RlvoError, match=words) as refusal:
        check(alter(noisy_head(grid)), grid)
    assert str(refusal.value).startswith("patient 5: ")
    assert refusal.value.fix


def test_a_head_turned_on_its_side_is_refused() -> None:
    with pytest.raises(RlvoError, match="turned by a right angle"):
        check(np.moveaxis(noisy_head(COARSE), 2, 1), COARSE)


def test_an_upside_down_synthetic_head_is_refused_where_the_grid_cuts_it_off() -> None:
    phantom = make_phantom(Lesion("left", "M1", z_cta=0, z_ncct=0), FOCUS, RNG, full_images=True)
    with pytest.raises(RlvoError, match="upside down"):
        check(phantom.cta[:, :, ::-1], FOCUS)


def test_the_turns_are_the_rotations_of_a_cube() -> None:
    assert len({turn.tobytes() for turn in TURNS}) == 24
    np.testing.assert_array_equal(TURNS[0], np.eye(3))
    for turn in TURNS:
        np.testing.assert_array_equal(turn @ turn.T, np.eye(3))
        assert np.linalg.det(turn) == pytest.approx(1)
