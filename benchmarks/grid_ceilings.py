"""What a grid shows of the synthetic patients' image latents, and the AUC that a known reader of the volumes reaches.

`python -m benchmarks.grid_ceilings WORK` draws patients on each grid, with each kind of images, and lets the reader of
`rlvo.synthetic.reader` learn from one half what it reads in the other. What it reads is kept in WORK: run again, it
continues. `--write` puts the table where `rlvo synth` finds it. The AUCs are lower bounds of what the grid can show: a
better reader may find more, and one who learns from few patients, as a network does, finds less.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import show
from rlvo.config.grid import PRESETS
from rlvo.report.console import show_progress
from rlvo.synthetic.ceilings import GRID_BLOCKS, GRID_CEILINGS, ceilings, grid_ceilings
from rlvo.synthetic.cohort import draw_patients
from rlvo.synthetic.outcome import PROFILES, get_profile
from rlvo.synthetic.phantom import make_phantom
from rlvo.synthetic.reader import Reading, read_latent, region_masks, region_sums

GRIDS = ("focus", "arteries")
"""Those of synthetic studies; `whole` has voxels of the same size as `focus`, and finer grids take hours."""
IMAGES = {True: "demo", False: "paper"}
"""A profile of each kind of images (`Profile.full_images`)."""
PATIENTS = 2500
"""The reader learns from so many, and reads as many others."""
SEED = 31


def read_grid(grid_name: str, full_images: bool, patients: int, work: Path) -> Reading:
    """Draw twice as many patients, and read the second half; kept in a file."""
    kept = work / f"{grid_name}-{IMAGES[full_images]}-{patients}.npz"
    if kept.exists():
        return Reading(**np.load(kept))
    grid = PRESETS[grid_name]
    lesions = draw_patients(2 * patients, get_profile(IMAGES[full_images]), SEED).lesions
    masks, seeds = region_masks(grid), np.random.SeedSequence(SEED).spawn(len(lesions))
    sums = np.empty((2, len(lesions), masks.shape[0]))
    with show_progress(f"{grid_name}, images as {IMAGES[full_images]}") as advance:
        for number, (lesion, seed) in enumerate(zip(lesions, seeds, strict=True)):
            phantom = make_phantom(lesion, grid, np.random.default_rng(seed), full_images=full_images)
            sums[0, number] = region_sums(masks, phantom.ncct, "ncct", lesion)
            sums[1, number] = region_sums(masks, phantom.cta, "cta", lesion)
            advance(number + 1, len(lesions))
    sites = np.array([lesion.site for lesion in lesions])
    z_ncct, z_cta = np.array([(lesion.z_ncct, lesion.z_cta) for lesion in lesions]).T
    reading = Reading(
        z_cta=z_cta[patients:],
        z_ncct=z_ncct[patients:],
        read_cta=read_latent(sums[1], sites, z_cta, patients),
        read_ncct=read_latent(sums[0], sites, z_ncct, patients),
    )
    work.mkdir(parents=True, exist_ok=True)
    with kept.open("wb") as file:
        np.savez(file, **vars(reading))
    return reading


def measure(patients: int, work: Path) -> pd.DataFrame:
    """Read every grid, and print correlations; return the columns of `GRID_CEILINGS`."""
    readings = {each: read_grid(*each, patients, work) for each in product(GRIDS, IMAGES)}
    show(
        "correlation of what is read with the latents",
        ("NCCT", "CTA"),
        {f"{grid}, images as {IMAGES[full]}": tuple(r.correlations.values()) for (grid, full), r in readings.items()},
    )
    rows = []
    for profile, grid in product(PROFILES.values(), GRIDS):
        found = grid_ceilings(profile, readings[grid, profile.full_images])
        rows += [(grid, profile.name, block, *found[block]) for block in GRID_BLOCKS]
    return pd.DataFrame(rows, columns=["grid", "profile", "block", "auc", "se"])


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="What a grid shows of the synthetic patients, at least.")
    parser.add_argument("work", type=Path, help="work folder to make, or to go on in")
    parser.add_argument("--patients", type=int, default=PATIENTS, help="to learn from, and as many to read")
    parser.add_argument("--write", action="store_true", help="keep the table where `rlvo synth` finds it")
    options = parser.parse_args()
    table = measure(options.patients, options.work)
    for name, profile in PROFILES.items():
        own = table[table["profile"] == name]
        latents = {"latents": [ceilings(profile)[block] for block in GRID_BLOCKS]}
        grids = {
            f"{grid}, {figure}": list(part[figure])
            for grid, part in own.groupby("grid", sort=False)
            for figure in ("auc", "se")
        }
        show(f"AUC, profile {name}", GRID_BLOCKS, latents | grids)
    if options.write:
        table.round(4).to_csv(GRID_CEILINGS, index=False)


if __name__ == "__main__":
    main()
