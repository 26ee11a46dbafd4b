"""The stump against lumens whose taper is known."""

from itertools import product

import numpy as np
import pytest

from rlvo.imaging.biomarker_regions import BOX, regions
from rlvo.imaging.biomarkers import measure
from rlvo.imaging.stump import STUMP_MM, measure_stump
from rlvo.imaging.volume import grid_axes

X, Y, Z = np.meshgrid(*grid_axes(BOX), indexing="ij")
CAROTID, END_Z = (11.0, 4.0), -17.0
"""Where the carotid rises on the right, and where it is occluded, RAS mm."""
OFFSETS = (-0.375, -0.125, 0.125, 0.375)


def lumen(taper: float, radius: float = 1.45, side: int = 1) -> np.ndarray:
    """Share of each voxel that a rising vessel fills, whose radius falls evenly to 0 over `taper` mm before END_Z."""
    share = np.zeros(BOX.shape, np.float32)
    near = np.s_[78:88, 65:76] if side > 0 else np.s_[57:67, 65:76]
    x, y, z = (each[near] for each in (side * X, Y, Z))
    assert abs(x.mean() - CAROTID[0]) < 1
    assert abs(y.mean() - CAROTID[1]) < 1
    for dx, dy, dz in product(OFFSETS, repeat=3):
        below = END_Z - (z + dz)
        narrowed = np.where(below > 0, radius * np.minimum(1, below / max(taper, 1e-6)), -1)
        share[near] += np.hypot(x + dx - CAROTID[0], y + dy - CAROTID[1]) <= narrowed
    return share / len(OFFSETS) ** 3


def clot(side: int = 1) -> np.ndarray:
    """A tube from the end of the lumen along M1."""
    along = side * X - CAROTID[0]
    return (along >= 0) & (along <= 15) & (np.hypot(Y - CAROTID[1], Z - END_Z - 1) <= 1.6)


def found(taper: float, contrast: float = 300.0, side: int = 1) -> float:
    rng = np.random.default_rng(0)
    filling = contrast * lumen(taper, side=side) + rng.normal(0, 3, BOX.shape)
    stump = measure_stump(filling.astype(np.float32), clot(side), regions().trunk & (side * X > 0))
    assert stump is not None
    height = Z[stump.mask]
    assert height.max() < END_Z + 3
    assert END_Z - STUMP_MM - 3 < height.min() < END_Z - STUMP_MM + 2
    return stump.taper_mm


def test_the_length_of_an_even_taper_is_found() -> None:
    """But for a millimetre or two next to the clot, where the voxels of both touch."""
    lengths = (0, 3, 6, 9)
    measured = [found(length) for length in lengths]
    assert np.array(measured) == pytest.approx(lengths, abs=2)
    assert min(np.diff(measured)) > 1.5


@pytest.mark.parametrize("contrast", [180.0, 450.0])
def test_it_does_not_depend_on_the_contrast(contrast: float) -> None:
    assert found(6, contrast) == pytest.approx(found(6), abs=0.5)


def test_the_mirrored_vessel_has_the_same_taper() -> None:
    assert found(6, side=-1) == pytest.approx(found(6), abs=0.7)


def test_without_a_filled_carotid_there_is_no_stump() -> None:
    nothing = np.random.default_rng(0).normal(0, 3, BOX.shape).astype(np.float32)
    assert measure_stump(nothing, clot(), regions().trunk & (X > 0)) is None


def draw_scans(taper: float) -> tuple[np.ndarray, np.ndarray]:
    """NCCT and CTA of an occlusion of the right carotid end; the left vessels are filled."""
    rng = np.random.default_rng(1)
    ncct, cta = (36 + sd * rng.standard_normal(BOX.shape) for sd in (2, 5))
    ncct[clot()] += 30
    cta += 280 * (lumen(taper) + lumen(0, side=-1))
    cta[clot(-1)] = 300
    return ncct.astype(np.float32), cta.astype(np.float32)


@pytest.fixture(scope="module")
def scans() -> tuple[np.ndarray, np.ndarray]:
    """The lumen tapers over 8 mm."""
    return draw_scans(8)


def test_it_is_one_of_the_biomarkers(scans: tuple[np.ndarray, np.ndarray]) -> None:
    patient, abrupt = (measure(*each, side="right", site="TICA") for each in (scans, draw_scans(0)))
    assert patient.values["taper_mm"] > abrupt.values["taper_mm"] + 3
    assert abrupt.values["taper_mm"] < 1.5
    assert patient.stump is not None
    assert not any("taper" in doubt for doubt in patient.doubts)


def test_calcium_in_the_stump_is_a_doubt(scans: tuple[np.ndarray, np.ndarray]) -> None:
    ncct = scans[0].copy()
    ncct[np.hypot(X - CAROTID[0] - 2, Y - CAROTID[1]) + np.abs(Z - END_Z + 6) <= 2] = 400
    patient = measure(ncct, scans[1], side="right", site="TICA")
    assert "calcium in the stump may hide a taper" in patient.doubts
    assert not np.isnan(patient.values["taper_mm"])


def test_a_lumen_that_cannot_be_followed_is_a_doubt(scans: tuple[np.ndarray, np.ndarray]) -> None:
    cta = np.where((X > 0) & (Z < -24), 36, scans[1]).astype(np.float32)
    patient = measure(scans[0], cta, side="right", site="TICA")
    assert np.isnan(patient.values["taper_mm"])
    assert not np.isnan(patient.values["clot_mm"])
    assert any("taper was not measured" in doubt for doubt in patient.doubts)


def test_a_scan_that_shows_little_of_the_carotid_is_enough(scans: tuple[np.ndarray, np.ndarray]) -> None:
    cta = np.where(Z < -34, 36, scans[1]).astype(np.float32)
    whole, part = (measure(scans[0], each, side="right", site="TICA").values["taper_mm"] for each in (scans[1], cta))
    assert part == pytest.approx(whole, abs=0.5)
