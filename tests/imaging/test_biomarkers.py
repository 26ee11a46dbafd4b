"""Biomarkers against shapes whose volume, length, density and place are known."""

import numpy as np
import pytest

from rlvo.imaging.biomarker_regions import BOX, regions
from rlvo.imaging.biomarkers import DECLARED, declarations, measure
from rlvo.imaging.volume import AIR, grid_axes

X, Y, Z = np.meshgrid(*grid_axes(BOX), indexing="ij")
BRAIN_HU, CONTRAST_HU = 36.0, 300.0
M1 = ((12, 5, -17), (30, 5, -13))
"""A straight course within the trunk, RAS mm: 18.4 mm long."""
M1_MM = float(np.linalg.norm(np.subtract(*M1)))
SIPHON, BRANCHES = ((11, 3, -50), (12, 5, -17)), ((30, -40, 10), (45, 30, 20))


def brain(seed: int, noise: float = 2.0) -> np.ndarray:
    return (BRAIN_HU + noise * np.random.default_rng(seed).standard_normal(BOX.shape)).astype(np.float32)


def tube(ends: tuple[tuple[float, ...], ...], radius: float, side: int = 1) -> np.ndarray:
    """A cylinder with flat ends, bool; `side` −1: mirrored to the left."""
    start, end = (np.array(each, dtype=float) for each in ends)
    axis = (end - start) / np.linalg.norm(end - start)
    offset = np.stack([side * X, Y, Z], axis=-1) - start
    along = offset @ axis
    across = np.linalg.norm(offset - along[..., None] * axis, axis=-1)
    return (across <= radius) & (along >= 0) & (along <= np.linalg.norm(end - start))


def sphere(centre: tuple[float, ...], radius: float) -> np.ndarray:
    return (X - centre[0]) ** 2 + (Y - centre[1]) ** 2 + (Z - centre[2]) ** 2 <= radius**2


@pytest.fixture(scope="module")
def scans() -> tuple[np.ndarray, np.ndarray]:
    """NCCT and CTA: M1 occluded on the right by a clot of 66 HU; branches there half as filled as on the left."""
    ncct, cta = brain(0), brain(1, noise=5)
    ncct[tube(M1, 2)] += 30
    for side in (1, -1):
        cta[tube(SIPHON, 2, side)] = CONTRAST_HU
        for height in (0, 8, 16):
            ends = tuple((x, y, z + height) for x, y, z in BRANCHES)
            cta[tube(ends, 1.5, side)] += CONTRAST_HU / (2 if side == 1 else 1)
    cta[tube(M1, 2, -1)] = CONTRAST_HU
    cta[(regions().cortex & (X > 0)) & (cta < 100)] -= 6
    return ncct, cta


def test_a_sphere_of_calcium_has_its_volume_and_mass() -> None:
    ncct = brain(3)
    ncct[sphere((12, 4, -28), 4)] = 200
    ncct[sphere((-11, 4, -25), 3.5)] = 400
    ncct[sphere((50, -40, 30), 6)] = 300  # far from the trunk
    ncct[:, :, :6] = 800  # the skull's base
    right, left = 4 / 3 * np.pi * 4**3, 4 / 3 * np.pi * 3.5**3
    for side, sign in (("right", 1), ("left", -1)):
        found = measure(ncct, None, side=side).values
        assert found["calcium_mm3"] == pytest.approx(right + left, rel=0.06)
        assert found["calcium_mg"] == pytest.approx(0.0008 * (200 * right + 400 * left), rel=0.06)
        assert found["calcium_difference_mm3"] == pytest.approx(sign * (right - left), abs=0.04 * (right + left))


def test_a_tube_without_contrast_has_its_length_and_density(scans: tuple[np.ndarray, np.ndarray]) -> None:
    found = measure(*scans, side="right", site="M1")
    assert found.values["clot_mm"] == pytest.approx(M1_MM, abs=2)
    assert found.values["clot_hu"] == pytest.approx(BRAIN_HU + 30, abs=4)
    assert found.values["clot_excess_hu"] == pytest.approx(30, abs=4)
    assert found.clot is not None
    assert (found.clot & tube(M1, 2)).sum() > 0.8 * tube(M1, 2).sum()
    shorter = scans[0].copy()
    half = ((M1[0][0] + M1[1][0]) / 2, 5.0, (M1[0][2] + M1[1][2]) / 2)
    shorter[tube((half, M1[1]), 3)] = BRAIN_HU
    values = measure(shorter, scans[1], side="right", site="M1").values
    assert values["clot_mm"] == pytest.approx(M1_MM / 2, abs=2)


def test_filling_is_compared_with_the_other_side(scans: tuple[np.ndarray, np.ndarray]) -> None:
    values = measure(*scans, side="right", site="M1").values
    assert values["collaterals"] == pytest.approx(0.5, abs=0.05)
    assert values["cortex_filling_hu"] == pytest.approx(-6, abs=0.5)
    assert values["deep_filling_hu"] == pytest.approx(0, abs=0.5)
    assert values["density_hu"] == pytest.approx(0, abs=0.3)


def test_a_mirrored_head_gives_the_mirrored_answer(scans: tuple[np.ndarray, np.ndarray]) -> None:
    found, mirrored = (measure(*each) for each in (scans, [scan[::-1] for scan in scans]))
    assert (found.side, mirrored.side) == ("right", "left")
    by_place = {"clot_mm": 1, "clot_hu": 0.3, "clot_excess_hu": 0.3}  # millimetres are counted from the other end
    for name, value in found.values.items():
        assert mirrored.values[name] == pytest.approx(value, rel=1e-4, abs=by_place.get(name, 1e-3)), name
    told = measure(*scans, side="left", site="M1")
    assert "the images show the right side, but occlusion_side is left" in told.doubts


@pytest.mark.parametrize(
    ("ncct", "cta", "missing", "why"),
    [
        (True, False, {"clot_hu", "clot_mm", "collaterals", "deep_filling_hu"}, "no CTA"),
        (False, True, {"calcium_mm3", "clot_hu", "density_hu"}, "no NCCT"),
        (True, None, {"clot_hu", "clot_mm", "collaterals", "cortex_filling_hu"}, "no contrast"),
    ],
)
def test_what_cannot_be_measured_is_missing_with_a_reason(
    scans: tuple[np.ndarray, np.ndarray], ncct: bool, cta: bool | None, missing: set[str], why: str
) -> None:
    plain = brain(5) if cta is None else scans[1] if cta else None
    found = measure(scans[0] if ncct else None, plain, side="right", site="M1")
    absent = {name for name, value in found.values.items() if np.isnan(value)}
    assert missing <= absent
    assert absent < {*DECLARED}
    assert any(why in doubt for doubt in found.doubts)


def test_a_scan_that_ends_above_the_trunk_is_not_measured(scans: tuple[np.ndarray, np.ndarray]) -> None:
    cut = [np.where(Z < 0, AIR, scan) for scan in scans]
    found = measure(*cut, side="right", site="M1")
    assert all(np.isnan(value) for value in found.values.values())
    assert sum("outside the scan" in doubt for doubt in found.doubts) == 2


def test_an_occlusion_without_a_dense_clot_says_so(scans: tuple[np.ndarray, np.ndarray]) -> None:
    found = measure(brain(7), scans[1], side="right", site="M1")
    assert np.isnan(found.values["clot_mm"])
    assert any("nothing dense" in doubt for doubt in found.doubts)


def test_every_biomarker_can_be_declared_as_a_predictor() -> None:
    declared = {each.source: each for each in declarations()}
    assert set(declared) == {f"biomarkers.{name}" for name in DECLARED}
    assert all(each.kind == "continuous" and each.unit for each in declared.values())
