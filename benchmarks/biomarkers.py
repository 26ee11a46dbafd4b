"""Do the imaging biomarkers measure what the synthetic patients have? Correlations with the truth, by voxel size.

`python -m benchmarks.biomarkers [--patients N] [--profiles demo paper] [--spacings 1 2]` draws heads whose clots are 5
to 20 mm long (a cohort's are all 10 mm), measures them as `rlvo prepare --biomarkers` does, and prints Pearson
correlations, how often the side was named right and a clot found, and the seconds. Nothing is registered: the heads lie
as `rlvo synth` draws them, with the residual error of a registration.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd

from benchmarks.measure import show
from rlvo.config.grid import Grid
from rlvo.imaging.alignment.registration import RegisteredScan
from rlvo.imaging.biomarker_regions import BOX
from rlvo.imaging.biomarkers import measure
from rlvo.imaging.cohort_biomarkers import on_box
from rlvo.imaging.volume import Volume
from rlvo.synthetic.clinical import SITES
from rlvo.synthetic.outcome import get_profile
from rlvo.synthetic.phantom import PLAIN_COLLATERAL, make_phantom
from rlvo.synthetic.vessels import Lesion, collateral_filling, taper_length

CLOTS_MM = (5.0, 20.0)
TRUTHS = {
    "calcium_mm3": "plaque",
    "calcium_mg": "plaque",
    "clot_hu": "clot_hu",
    "clot_excess_hu": "clot_hu",
    "clot_mm": "clot_mm",
    "taper_mm": "taper",
    "collaterals": "collaterals",
    "deep_filling_hu": "blush",
    "cortex_filling_hu": "blush",
}
"""By biomarker: what of the truth it should follow."""


def patients(number: int, profile: str, spacing: float, seed: int = 0) -> Iterator[dict[str, object]]:
    """Draw and measure patients: biomarkers `found …`, truth `true …`, side, site, seconds."""
    full, rng = get_profile(profile).full_images, np.random.default_rng(seed)
    grid = grid_of(spacing)
    for each in range(number):
        site, side = str(rng.choice(list(SITES), p=list(SITES.values()))), str(rng.choice(["left", "right"]))
        z_cta, z_ncct = (float(z) for z in rng.standard_normal(2))
        lesion = Lesion(side, site, z_cta, z_ncct, clot_mm=float(rng.uniform(*CLOTS_MM)))
        drawn = make_phantom(lesion, grid, np.random.default_rng([seed, each]), full_images=full)
        start = time.perf_counter()
        ncct, cta = (
            on_box(RegisteredScan(Volume(np.asfortranarray(hu, dtype=np.float32), grid.affine), np.eye(4)))
            for hu in (drawn.ncct, drawn.cta)
        )
        found = measure(ncct, cta, side=side, site=site)
        filling = collateral_filling(z_cta) if full else PLAIN_COLLATERAL
        truth = {
            "plaque": 20 * np.exp(0.8 * z_ncct) if full else 0.0,
            "clot_hu": float(np.clip(55 - 7 * z_ncct, 36, 90)),
            "clot_mm": lesion.clot_mm,
            "taper": taper_length(z_cta),
            "collaterals": filling,
            "blush": 12 * (filling - 1) * (0.6 if site == "M2" else 1.0),
        }
        yield {
            **{f"found {name}": value for name, value in found.values.items()},
            **{f"true {name}": value for name, value in truth.items()},
            "side": found.side == side,
            "seconds": time.perf_counter() - start,
        }


def grid_of(spacing: float) -> Grid:
    """The biomarkers' box in other voxels."""
    shape = tuple(round(n / spacing) for n in BOX.shape)
    return Grid(shape=shape, spacing=(spacing,) * 3, origin=tuple(x + (spacing - 1) / 2 for x in BOX.origin))


def correlation(table: pd.DataFrame, name: str) -> float:
    """Of a biomarker with its truth, over the patients in whom it was measured; NaN if the truth does not vary."""
    pair = table[[f"found {name}", f"true {TRUTHS[name]}"]].dropna()
    return float(pair.corr().iloc[0, 1]) if pair.iloc[:, 1].nunique() > 1 else float("nan")


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.biomarkers", description=__doc__)
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--profiles", nargs="+", default=["demo", "paper"])
    parser.add_argument("--spacings", nargs="+", type=float, default=[1.0, 2.0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = {
        f"{profile}, {spacing:g} mm": pd.DataFrame(patients(options.patients, profile, spacing, options.seed))
        for profile in options.profiles
        for spacing in options.spacings
    }
    tables = list(found.values())
    rows = {name: tuple(correlation(table, name) for table in tables) for name in TRUTHS}
    rows |= {
        "side named right": tuple(float(table["side"].mean()) for table in tables),
        "clot found": tuple(float(table["found clot_mm"].notna().mean()) for table in tables),
        "clot too long, mm": tuple(float((table["found clot_mm"] - table["true clot_mm"]).mean()) for table in tables),
        "seconds": tuple(float(table["seconds"].mean()) for table in tables),
    }
    show(f"correlation with the truth, {options.patients} synthetic patients each", tuple(found), rows)


if __name__ == "__main__":
    main()
