"""The known reader of drawn volumes: it sees what preparation stores, and its figures are bounds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlvo.config.grid import PRESETS
from rlvo.imaging.prepare import prepare
from rlvo.imaging.target import Target
from rlvo.imaging.volume import write_on_grid
from rlvo.synthetic.ceilings import (
    GRID_BLOCKS,
    GRID_CEILINGS,
    ceilings,
    grid_ceilings,
    known_grid_ceilings,
)
from rlvo.synthetic.outcome import PROFILES
from rlvo.synthetic.phantom import make_phantom
from rlvo.synthetic.reader import Reading, read_latent, region_masks, region_sums
from rlvo.synthetic.vessels import Lesion

ARTERIES = PRESETS["arteries"]
LESION = Lesion("left", "M1", 0.4, -0.3)


def test_sums_are_of_the_prepared_volume_turned_to_one_side(tmp_path: Path) -> None:
    phantom = make_phantom(LESION, ARTERIES, np.random.default_rng(2), full_images=False)
    drawn = {"ncct": phantom.ncct, "cta": phantom.cta, "vessels": phantom.vessels}
    for name, volume in drawn.items():
        write_on_grid(tmp_path / f"{name}.nii.gz", volume, ARTERIES)
    files = {name: tmp_path / f"{name}.nii.gz" for name in drawn}
    prepared = prepare(Target(grid=ARTERIES), **files)
    assert prepared.doubts == ()
    masks = region_masks(ARTERIES)
    right = Lesion("right", "M1", 0.4, -0.3)
    for name in ("ncct", "cta"):
        expected = masks @ prepared.volumes[name].astype(np.float32).ravel()
        np.testing.assert_array_equal(region_sums(masks, drawn[name], name, LESION), expected)
        np.testing.assert_array_equal(region_sums(masks, drawn[name][::-1], name, right), expected)
        assert np.abs(region_sums(masks, drawn[name], name, right) - expected).max() > 100


def test_the_grid_is_symmetric_and_holds_every_clot() -> None:
    centre = np.array(ARTERIES.origin) + np.array(ARTERIES.spacing) * (np.array(ARTERIES.shape) - 1) / 2
    assert centre[0] == 0
    for site, seed in (("TICA", 1), ("M1", 2), ("M2", 3)):
        dense, loose = (Lesion("right", site, 0.0, z) for z in (-2.5, 2.5))
        first, other = (
            make_phantom(lesion, PRESETS["focus"], np.random.default_rng(seed), full_images=False)
            for lesion in (dense, loose)
        )
        differs = np.argwhere(np.abs(first.ncct.astype(int) - other.ncct) > 2)
        places = np.array(PRESETS["focus"].origin) + differs * PRESETS["focus"].spacing
        end = np.array(ARTERIES.origin) + np.array(ARTERIES.spacing) * ARTERIES.shape
        assert len(places)
        assert (places > np.array(ARTERIES.origin) - 2).all()
        assert (places < end + 1).all()


def test_a_latent_is_read_for_each_site_from_training_patients_alone() -> None:
    rng = np.random.default_rng(0)
    sites, latent = rng.choice(["TICA", "M1", "M2"], 900), rng.standard_normal(900)
    slopes = {"TICA": 1.0, "M1": -1.0, "M2": 0.0}
    sums = rng.standard_normal((900, 5))
    sums[:, 2] += 3 * latent * np.vectorize(slopes.get)(sites)
    read = read_latent(sums, sites, latent, 600)
    hidden = np.concatenate([latent[:600], np.full(300, np.nan)])
    np.testing.assert_array_equal(read_latent(sums, sites, hidden, 600), read)
    correlation = {
        site: np.corrcoef(read[sites[600:] == site], latent[600:][sites[600:] == site])[0, 1] for site in slopes
    }
    assert correlation["TICA"] > 0.85
    assert correlation["M1"] > 0.85
    assert abs(correlation["M2"]) < 0.3


@pytest.mark.slow
def test_who_reads_the_latents_reaches_the_ceilings_and_who_reads_nothing_that_of_the_table() -> None:
    z_cta, z_ncct = np.random.default_rng(1).standard_normal((2, 40_000))
    profile = PROFILES["interaction"]
    best = ceilings(profile)
    perfect = grid_ceilings(profile, Reading(z_cta, z_ncct, z_cta, z_ncct))
    assert {block: auc for block, (auc, _) in perfect.items()} == pytest.approx(
        {block: best[block] for block in GRID_BLOCKS}, abs=0.006
    )
    blind = grid_ceilings(profile, Reading(z_cta, z_ncct, 0 * z_cta, 0 * z_ncct))
    for block in GRID_BLOCKS:
        sees_table = block.endswith("clinical") or block == "bayes"
        assert blind[block][0] == pytest.approx(best["clinical"] if sees_table else 0.5, abs=0.006)


def test_what_was_measured_is_a_lower_bound_and_told_for_its_grid_only() -> None:
    table = pd.read_csv(GRID_CEILINGS, na_filter=False)
    assert (set(table["grid"]), set(table["profile"])) == ({"focus", "arteries"}, set(PROFILES))
    for name, own in table.groupby("profile"):
        profile = PROFILES[str(name)]
        for grid, rows in own.groupby("grid"):
            assert list(rows["block"]) == list(GRID_BLOCKS)
            assert (rows["auc"] < rows["block"].map(ceilings(profile)) + 2 * rows["se"] + 1e-9).all()
            assert known_grid_ceilings(profile, PRESETS[str(grid)]) == dict(
                zip(rows["block"], rows["auc"], strict=True)
            )
    assert known_grid_ceilings(PROFILES["demo"], PRESETS["paper"]) == {}
