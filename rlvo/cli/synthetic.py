"""`rlvo synth` and `rlvo demo`: a synthetic cohort whose ceilings are known, and the whole platform on one."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from rlvo.about import NOTICE
from rlvo.cli.common import JsonOption, WorkdirOption, writable_folder
from rlvo.cli.search import show_search
from rlvo.config.commands import command_line
from rlvo.config.grid import PRESETS
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.report.console import console, print_json, print_line, show_progress


def synth(
    out: Annotated[
        Path,
        typer.Argument(help="Folder to write: new, empty or an earlier synthetic cohort.", callback=writable_folder),
    ],
    patients: Annotated[int, typer.Option(help="How many patients.")] = 600,
    profile: Annotated[str, typer.Option(help="demo, paper, interaction or null.")] = "demo",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    grid: Annotated[
        Literal["whole", "focus", "arteries"],
        typer.Option(help="Whole head or its middle at 4 mm, or the arteries at 2 mm."),
    ] = "focus",
    volumes: Annotated[bool, typer.Option("--volumes/--no-volumes", help="NIfTI volumes, or the table alone.")] = True,
    json: JsonOption = False,
) -> None:
    """Write a synthetic cohort: table, NCCT, CTA, vessel masks, and the best AUC that is possible on it.

    The profile demo is engineered to be learnable in minutes; paper has effects of a realistic size.

    Example: rlvo synth ./cohort --patients 600 --profile demo --seed 1
    """
    from rlvo.synthetic.ceilings import ceilings, known_grid_ceilings
    from rlvo.synthetic.cohort import write_synthetic_cohort
    from rlvo.synthetic.outcome import get_profile

    with show_progress("synthetic patients") as advance:
        write_synthetic_cohort(
            out, patients=patients, profile=profile, seed=seed, grid=PRESETS[grid], volumes=volumes, progress=advance
        )
    best, table = ceilings(get_profile(profile)), out / "cohort.csv"
    shown = known_grid_ceilings(get_profile(profile), PRESETS[grid]) if volumes else {}
    if json:
        wrote = {"cohort": table, "truth": out / "truth.json", "patients": patients}
        print_json({**wrote, "ceilings": best, "grid_ceilings": shown})
        return
    print_line(f"wrote {table}: {patients} synthetic patients, profile {profile}")
    print_line(f"ceiling AUC: {_in_words(best)}")
    if shown:
        print_line(f"of these, the grid {grid} shows at least (a known reader of the volumes): {_in_words(shown)}")
    print_line(f"next: {command_line('validate', table)}")


def _in_words(aucs: Mapping[str, float]) -> str:
    return ", ".join(f"{block} {auc:.3f}" for block, auc in aucs.items())


def demo(
    workdir: WorkdirOption = Path(DEFAULT),
    profile: Annotated[str, typer.Option(help="demo: learnable in minutes. null: no signal, AUCs near 0.5.")] = "demo",
    patients: Annotated[int, typer.Option(min=40, help="Synthetic patients.")] = 480,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the cohort.")] = 1,
    config: Annotated[Path | None, typer.Option(help="Study to run: file or name.", show_default="demo")] = None,
    json: JsonOption = False,
) -> None:
    """Synthetic cohort, search, ensemble, registered model, hold-out: minutes on two cores. Run again, it continues.

    Example: rlvo demo --workdir ./rlvo-work
    """
    from rlvo.report.tables import performance_table
    from rlvo.workflows.demo import demonstrate
    from rlvo.workflows.study import where_in_mlflow

    started, work = time.monotonic(), Workdir.at(workdir)
    made = demonstrate(
        work,
        patients=patients,
        profile=profile,
        seed=seed,
        config=config,
        progress=show_progress,
        show_state=show_search,
    )
    if json:
        holdout = {name: {**asdict(each.holdout), "ceiling": each.ceiling} for name, each in made.models.items()}
        print_json(
            {
                "opening": made.holdout.opening,
                "model": made.built.model,
                "version": made.built.version,
                "holdout": holdout,
                "ceilings": made.truth["ceilings"],
                "picture": made.picture,
                "notice": NOTICE,
            }
        )
    title = f"{made.config.name}, profile {profile}: {made.truth['statement']}"
    console.print(performance_table(made.models, title=title))
    for note in made.built.unbeaten:
        print_line(f"note: out of fold: {note}")
    print_line(made.built.registered)
    if not made.is_new:
        print_line("finished before: nothing was trained, registered or opened again")
    others, place, model = work.path / "new-patients", work.path, made.built.model
    to_predict = ("predict", f"{model}@champion", others / "cohort.csv", "-o", "answers.csv")
    drawn = ("synth", others, "--patients", 20, "--profile", profile, "--seed", seed + 1)
    commands = {
        "picture": made.picture,
        **where_in_mlflow(work, made.config),
        "model": command_line("models", "--model", model, workdir=place),
        "patients": command_line(*drawn),
        "answers": command_line(*to_predict, workdir=place),
        "baselines": command_line("baseline", made.table, workdir=place),
        "the paper": command_line("plan", "paper_grid"),
    }
    print_line("")
    minutes = (time.monotonic() - started) / 60
    print_line(f"{minutes:.1f} minutes. Opening {made.holdout.opening} of this hold-out. {NOTICE}")
    print_line("")
    for name, command in commands.items():
        print_line(f"{name:<11} {command}")
