"""`rlvo demo`: the whole platform on a synthetic cohort whose ceilings are known."""

from __future__ import annotations

import json as json_module
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import rlvo
from rlvo import NOTICE
from rlvo.cli.common import JsonOption, WorkdirOption, console, emit_json, progress_bar
from rlvo.config.loading import load_study
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError

if TYPE_CHECKING:
    from rlvo.cli.evaluate import Evaluation
    from rlvo.ensemble.spec import EnsembleSpec
    from rlvo.registry.holdout import HoldOut
    from rlvo.report.tables import Performance
    from rlvo.search.inputs import StudyInputs


def demo(
    workdir: WorkdirOption = Path(DEFAULT),
    profile: Annotated[str, typer.Option(help="demo: learnable in minutes. null: no signal, AUCs near 0.5.")] = "demo",
    patients: Annotated[int, typer.Option(min=40, help="Synthetic patients.")] = 480,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the cohort.")] = 1,
    config: Annotated[Path | None, typer.Option(help="Study to run.", show_default="tune_configs/demo.yaml")] = None,
    json: JsonOption = False,
) -> None:
    """Synthetic cohort, search, ensemble, registered model, hold-out: minutes on two cores. Run again, it goes on.

    Example: rlvo demo --workdir ./rlvo-work
    """
    from rlvo.cli.ensemble import build_and_register
    from rlvo.cli.evaluate import evaluate_study, kept_evaluation
    from rlvo.cli.search import run_mirrored
    from rlvo.report.tables import performance_table
    from rlvo.search.guards import alone
    from rlvo.search.study import open_study

    started = time.monotonic()
    work = Workdir.at(workdir)
    study = load_study(config or _default_config())
    table = work.path / "cohort" / "cohort.csv"
    truth = _cohort(table.parent, study, patients=patients, profile=profile, seed=seed)

    with alone(work.study(study.name)):
        inputs = open_study(study, table, work, progress=progress_bar)
        result = run_mirrored(study, inputs, table, work)
    if result.best is None:
        raise RlvoError("no configuration finished", where=study.name, fix="rlvo search shows why each failed")
    built = build_and_register(study, inputs, work)
    kept = kept_evaluation(study, inputs, work)
    evaluated = kept or evaluate_study(study, inputs, work)
    holdout = evaluated.holdout

    models = _with_ceilings(built.specs, evaluated, truth["ceilings"])
    picture = work.path / f"{study.name}.png"
    _draw(picture, study, inputs, holdout)
    if json:
        emit_json(
            {
                "opening": holdout.opening,
                "model": built.model,
                "version": built.version,
                "holdout": {
                    name: {**asdict(model.holdout), "ceiling": model.ceiling} for name, model in models.items()
                },
                "ceilings": truth["ceilings"],
                "picture": picture,
                "notice": NOTICE,
            }
        )
    console.print(performance_table(models, title=f"{study.name}, profile {profile}: {truth['statement']}"))
    if kept:
        console.print("finished before: nothing was trained, registered or opened again", highlight=False)
    console.print(
        _farewell(work, picture, holdout.opening, time.monotonic() - started), highlight=False, soft_wrap=True
    )


def _default_config() -> Path:
    """`tune_configs/demo.yaml`: beside the package in a checkout, under `share/rlvo` of an installed environment."""
    checkout, installed = Path(rlvo.__file__).parents[1], Path(sys.prefix) / "share" / "rlvo"
    return next(path for base in (checkout, installed) if (path := base / "tune_configs" / "demo.yaml").exists())


def _cohort(folder: Path, study: StudyConfig, *, patients: int, profile: str, seed: int) -> dict:
    """The synthetic cohort in `folder`, written unless it is there already; returns its truth."""
    from rlvo.synthetic.cohort import write_synthetic_cohort

    truth, table = folder / "truth.json", folder / "cohort.csv"
    if not table.exists():
        with progress_bar("synthetic patients") as advance:
            write_synthetic_cohort(
                folder, patients=patients, profile=profile, seed=seed, grid=study.grid, progress=advance
            )
    try:
        known = json_module.loads(truth.read_text())
    except (OSError, ValueError):
        raise RlvoError("is no cohort of the demo's", where=table, fix="Use another --workdir") from None
    if (known["profile"], known["patients"], known["seed"]) != (profile, patients, seed):
        raise RlvoError(
            f"holds another cohort: profile {known['profile']}, {known['patients']} patients, seed {known['seed']}",
            where=table,
            fix="Use another --workdir",
        )
    return known


def _ceiling(spec: EnsembleSpec, ceilings: dict[str, float]) -> float:
    """The best AUC from what the ensemble's members see: their images, and the table where one has a fusion."""
    seen = {channel for c in spec.configurations for channel in c.model.channels}
    images = "both" if {"ncct", "cta"} <= seen or "vessels" in seen else seen.pop()
    if all(c.model.fusion == "none" for c in spec.configurations):
        return ceilings[images]
    return ceilings["bayes" if images == "both" else f"{images}_clinical"]


def _with_ceilings(
    specs: dict[str, EnsembleSpec], evaluated: Evaluation, ceilings: dict[str, float]
) -> dict[str, Performance]:
    """Every model with the best AUC from what it sees; the study's own ensemble last."""
    models = {
        name: replace(model, ceiling=_ceiling(specs[name], ceilings) if name in specs else ceilings["clinical"])
        for name, model in evaluated.models.items()
    }
    own = next(iter(specs))
    last = models.pop(own)
    return {**models, own: last}


def _draw(path: Path, study: StudyConfig, inputs: StudyInputs, holdout: HoldOut) -> None:
    """ROC curves on the hold-out, the study's ensemble last, beside the volumes of its first patient with rLVO."""
    from rlvo.imaging.store import open_volumes
    from rlvo.report.figures import Curve, study_figure

    answered = holdout.answers.dropna(subset="score")
    curves = [
        Curve(str(name), own["label"].to_numpy(int), own["score"].to_numpy(float))
        for name, own in answered.groupby("ensemble", sort=False)
    ]
    curves.append(curves.pop(0))
    shown = next(patient for patient in inputs.split.test if inputs.label[patient] == 1)
    stored = open_volumes(inputs.volumes[shown])
    volumes = {title: stored[name] for name, title in (("ncct", "NCCT"), ("cta", "CTA"), ("vessels", "vessels"))}
    study_figure(path, curves, volumes, spacing=study.grid.spacing, title="rlvo demo: synthetic patients")


def _farewell(work: Workdir, picture: Path, opening: int, seconds: float) -> str:
    return f"""
{seconds / 60:.1f} minutes. Opening {opening} of this hold-out. {NOTICE}

picture     {picture}
MLflow UI   mlflow ui --backend-store-uri {work.tracking_uri()} --host 127.0.0.1
answers     rlvo predict rlvo-ensemble@champion {work.path}/cohort/cohort.csv -o answers.csv --workdir {work.path}
baselines   rlvo baseline {work.path}/cohort/cohort.csv
the paper   rlvo plan tune_configs/paper_grid.yaml"""
