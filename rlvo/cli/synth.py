"""`rlvo synth`: a synthetic cohort whose ceilings are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rlvo.cli.common import JsonOption, console, emit_json, progress_bar
from rlvo.config.grid import PRESETS


def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write: new, empty or an earlier synthetic cohort.")],
    patients: Annotated[int, typer.Option(help="How many patients.")] = 600,
    profile: Annotated[str, typer.Option(help="demo, paper, interaction or null.")] = "demo",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    grid: Annotated[
        Literal["whole", "focus"], typer.Option(help="Whole head or the arteries' region, 4 mm.")
    ] = "focus",
    volumes: Annotated[bool, typer.Option("--volumes/--no-volumes", help="NIfTI volumes, or the table alone.")] = True,
    json: JsonOption = False,
) -> None:
    """Write a synthetic cohort: table, NCCT, CTA, vessel masks, and the best AUC anything can reach on it.

    The profile demo is engineered to be learnable in minutes; paper has effects of a realistic size.

    Example: rlvo synth ./cohort --patients 600 --profile demo --seed 1
    """
    from rlvo.synthetic.ceilings import ceilings
    from rlvo.synthetic.cohort import write_synthetic_cohort
    from rlvo.synthetic.profiles import get_profile

    with progress_bar("synthetic patients") as progress:
        write_synthetic_cohort(
            out, patients=patients, profile=profile, seed=seed, grid=PRESETS[grid], volumes=volumes, progress=progress
        )
    best = ceilings(get_profile(profile))
    if json:
        emit_json({"cohort": out / "cohort.csv", "truth": out / "truth.json", "patients": patients, "ceilings": best})
        return
    console.print(
        f"wrote {out / 'cohort.csv'}: {patients} synthetic patients, profile {profile}", highlight=False, soft_wrap=True
    )
    console.print(
        "ceiling AUC: " + ", ".join(f"{block} {auc:.3f}" for block, auc in best.items()),
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"next: rlvo validate {out / 'cohort.csv'}", highlight=False, soft_wrap=True)
