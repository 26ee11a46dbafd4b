"""The phantom looks like the table says, and the latents are really in the images."""

from functools import cache

import numpy as np
import pytest

from rlvo.config.grid import PRESETS, Grid
from rlvo.synthetic.phantom import PhantomVolumes, make_phantom
from rlvo.synthetic.rasterise import ellipsoid, grid_axes
from rlvo.synthetic.vessels import Lesion

FOCUS = PRESETS["focus"]


def phantom(lesion: Lesion, grid: Grid = FOCUS, *, seed: int = 0, full_images: bool = True) -> PhantomVolumes:
    return make_phantom(lesion, grid, np.random.default_rng(seed), full_images=full_images)


def near(points: list[tuple[float, float, float]], radius: float, grid: Grid = FOCUS) -> np.ndarray:
    """Voxels within `radius` mm of any of the points (atlas mm)."""
    axes = grid_axes(grid)
    return np.any([ellipsoid(grid, axes, point, (radius,) * 3) > 0.5 for point in points], axis=0)


# Places along the right middle cerebral artery in atlas mm: the tree's control points + (0, 5, -18).
M1_CLOT = [(18, 6, -16), (22, 6, -15)]
SYLVIAN = [(34, 15, -6), (40, 17, 4), (36, -3, -10), (42, -13, -2), (43, 20, 15), (45, 12, 20), (46, -17, 18)]
SIDES = {"left": -1, "right": 1}


@pytest.mark.parametrize("grid", ["focus", "whole"])
def test_tissues_in_hounsfield_units(grid: str) -> None:
    shape = PRESETS[grid]
    volumes = phantom(Lesion("left", "M1", 0, 0), shape)
    assert volumes.ncct.shape == volumes.cta.shape == volumes.vessels.shape == shape.shape
    assert (volumes.ncct.dtype, volumes.cta.dtype, volumes.vessels.dtype) == (np.int16, np.int16, np.uint8)
    assert set(np.unique(volumes.vessels)) == {0, 1}
    for volume, noise in ((volumes.ncct, 2), (volumes.cta, 6)):
        assert volume.min() >= -1024
        assert volume.max() < 1300
        quiet = near([(35, -30, 25)], 10, shape)
        assert volume[quiet].mean() == pytest.approx(29, abs=2.5)
        assert volume[quiet].std() == pytest.approx(noise, rel=0.3)


def test_a_line_across_the_head_has_air_skull_and_brain_from_outside_in() -> None:
    grid = Grid(shape=(41, 1, 1), spacing=(4, 4, 4), origin=(-80, -18, 8))
    line = phantom(Lesion("left", "M1", 0, 0), grid).ncct[:, 0, 0]
    assert line[0] < -800
    assert line[1:5].max() > 500
    assert np.median(line[8:13]) == pytest.approx(36, abs=8)


def test_full_grid_resolution_keeps_lumen_density() -> None:
    """On a 1 mm grid the ICA (radius 2 mm) reaches the full contrast of its lumen."""
    grid = Grid(shape=(40, 30, 24), spacing=(1, 1, 1), origin=(-20, -8, -46))
    volumes = phantom(Lesion("left", "M2", 0, 0), grid)
    top = np.sort(volumes.cta[20:].ravel())[-40:].mean()
    assert 300 < top < 450
    assert volumes.vessels.mean() < 0.12


@pytest.mark.parametrize("side", ["left", "right"])
def test_contrast_is_missing_beyond_the_occlusion_on_that_side(side: str) -> None:
    x, _, z = grid_axes(FOCUS)
    places = {name: np.broadcast_to((sign * x > 26) & (z > -20), FOCUS.shape) for name, sign in SIDES.items()}
    sylvian = {name: near([(sign * a, b, c) for a, b, c in SYLVIAN], 4) for name, sign in SIDES.items()}
    other = {"left": "right", "right": "left"}[side]
    for seed in range(4):
        volumes = phantom(Lesion(side, "TICA", -1.5, 0), seed=seed)
        assert volumes.cta[sylvian[side]].mean() < volumes.cta[sylvian[other]].mean() - 12
        assert volumes.vessels[places[side]].sum() == 0
        assert volumes.vessels[places[other]].sum() > 40


def test_an_m2_occlusion_spares_the_other_branch() -> None:
    x, y, _ = grid_axes(FOCUS)
    superior, inferior = (np.broadcast_to((x > 38) & front, FOCUS.shape) for front in (y > 15, y < -6))
    for seed in range(4):
        volumes = phantom(Lesion("right", "M2", -1.5, 0), seed=seed)
        assert volumes.vessels[superior].sum() == 0
        assert volumes.vessels[inferior].sum() > 3


@cache
def readouts() -> dict[str, np.ndarray]:
    """Latents and hand-made read-outs of 80 patients with right M1 occlusions."""
    rng = np.random.default_rng(8)
    lumen, clot = near(SYLVIAN, 4), near(M1_CLOT, 6)
    axes = grid_axes(FOCUS)
    territory, opposite = (ellipsoid(FOCUS, axes, (x, 0, 22), (16, 28, 18)) > 0.5 for x in (40, -40))
    rows = []
    for seed in range(80):
        z_cta, z_ncct = rng.standard_normal(2)
        volumes = phantom(Lesion("right", "M1", z_cta, z_ncct), seed=seed)
        blush = np.median(volumes.cta[territory]) - np.median(volumes.cta[opposite])
        plaque = volumes.ncct.clip(0, 100)[clot].max()
        rows.append((z_cta, z_ncct, volumes.cta[lumen].mean(), blush, plaque))
    return dict(zip(("z_cta", "z_ncct", "lumen", "blush", "plaque"), np.array(rows).T, strict=True))


def correlation(first: str, second: str) -> float:
    return float(np.corrcoef(readouts()[first], readouts()[second])[0, 1])


def test_each_latent_is_in_its_own_image_alone() -> None:
    assert correlation("lumen", "z_cta") > 0.6
    assert correlation("blush", "z_cta") > 0.8
    assert correlation("plaque", "z_ncct") > 0.7
    for readout, foreign in (("lumen", "z_ncct"), ("blush", "z_ncct"), ("plaque", "z_cta")):
        assert abs(correlation(readout, foreign)) < 0.3


def difference(image: str, first: Lesion, second: Lesion, *, full_images: bool, seed: int = 0) -> np.ndarray:
    """What the latents alone change, in HU: the difference of two patients who share anatomy and noise."""
    both = (phantom(lesion, seed=seed, full_images=full_images) for lesion in (first, second))
    one, two = (getattr(volumes, image).astype(int) for volumes in both)
    return one - two


def test_the_ncct_latent_changes_clot_and_plaque_by_their_volume() -> None:
    faint, dense = Lesion("right", "M1", 0, 2), Lesion("right", "M1", 0, -2)
    clot = np.pi * 1.43**2 * 10 * ((55 - 14) - (55 + 14)) / 64
    many = [difference("ncct", faint, dense, full_images=False, seed=seed) for seed in range(20)]
    assert np.mean([each.sum() for each in many]) == pytest.approx(clot, rel=0.1)  # the mean smooths out rounding to HU
    plaque = 400 * 20 * (np.exp(1.6) - np.exp(-1.6)) / 64
    full = difference("ncct", faint, dense, full_images=True)
    assert (full - many[0]).sum() == pytest.approx(plaque, rel=0.05)
    assert (difference("cta", faint, dense, full_images=True) == 0).all()


def test_the_cta_latent_changes_blush_collaterals_and_taper() -> None:
    good, poor = Lesion("left", "M1", 2, 0), Lesion("left", "M1", -2, 0)
    full = difference("cta", good, poor, full_images=True)
    territory = ellipsoid(FOCUS, grid_axes(FOCUS), (-44, 0, 22), (12, 24, 12)) > 0.5
    filling = 1 / (1 + np.exp([0.4 - 3, 0.4 + 3]))
    assert np.median(full[territory]) == pytest.approx(12 * (filling[0] - filling[1]), abs=1)
    plain = difference("cta", good, poor, full_images=False)
    assert np.abs(plain[territory]).max() == 0
    assert plain.min() < -20  # the longer taper has less lumen
    assert plain.max() <= 0
    assert (difference("ncct", good, poor, full_images=True) == 0).all()


def test_an_m2_occlusion_blushes_less() -> None:
    territory = ellipsoid(FOCUS, grid_axes(FOCUS), (44, 0, 22), (12, 24, 12)) > 0.5
    m1, m2 = (
        difference("cta", Lesion("right", site, -2, 0), Lesion("right", site, 2, 0), full_images=True)
        for site in ("M1", "M2")
    )
    assert np.median(m2[territory]) / np.median(m1[territory]) == pytest.approx(0.6, abs=0.1)
