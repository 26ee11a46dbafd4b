"""`rlvo ensemble`, `rlvo evaluate`, `rlvo predict`: from trials to a registered model and its answers."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rlvo import NOTICE
from rlvo.cli.common import JsonOption, WorkdirOption, console, emit_json, progress_bar
from rlvo.config.loading import load_study
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import CohortError, Finding, RlvoError
from rlvo.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

    from rlvo.ensemble.spec import EnsembleSpec
    from rlvo.registry.holdout import HoldOut
    from rlvo.search.inputs import StudyInputs

StudyArgument = Annotated[str, typer.Argument(help="A study's name in the work folder, or its YAML file.")]
MODEL_FOLDER = "ensemble/model"


@dataclass(frozen=True)
class BuiltEnsemble:
    """A study's ensembles, the first of which is registered."""

    specs: dict[str, EnsembleSpec]
    validation: dict[str, pd.DataFrame]
    """By ensemble: `classification_metrics` a fold, on validation: optimistic."""
    folder: Path
    """The model folder that was registered."""
    model: str
    version: str


def ensemble(study: StudyArgument, workdir: WorkdirOption = Path(DEFAULT), json: JsonOption = False) -> None:
    """Build a study's ensembles from its stored validation predictions, and register the study's own.

    Example: rlvo ensemble demo
    """
    work = Workdir.at(workdir)
    config, inputs = _open(study, work)
    built = build_and_register(config, inputs, work)
    if json:
        emit_json(
            {
                "model": built.model,
                "version": built.version,
                "folder": built.folder,
                "ensembles": {name: _validation_json(built, name) for name in built.specs},
            }
        )
        return
    console.print(_validation_table(built, config.name))
    for note in next(iter(built.specs.values())).notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    _say(f"registered {built.model} version {built.version}, alias champion")
    _say(f"next: rlvo evaluate {config.name} --workdir {workdir}")


def evaluate(study: StudyArgument, workdir: WorkdirOption = Path(DEFAULT), json: JsonOption = False) -> None:
    """Open the hold-out for the ensembles a study has declared; every opening is counted.

    Example: rlvo evaluate demo
    """
    from rlvo.report.tables import Performance, performance_table

    work = Workdir.at(workdir)
    config, inputs = _open(study, work)
    holdout = evaluate_study(config, inputs, work)
    if json:
        figures = {name: asdict(of_name) for name, of_name in holdout.figures.items()}
        emit_json({"opening": holdout.opening, "split_hash": inputs.split.hash, "ensembles": figures, "notice": NOTICE})
        return
    validation = _validation(work.study(config.name))
    models = {name: Performance(validation[name], figures) for name, figures in holdout.figures.items()}
    console.print(performance_table(models, title=f"{config.name}: opening {holdout.opening} of its hold-out"))
    first = next(iter(holdout.figures.values()))
    if first.unanswered:
        _say(f"{first.unanswered} patients could not be answered for and are left out; the kept answers say why")
    _say(NOTICE)


def predict(
    model: Annotated[str, typer.Argument(help="Registered model (rlvo-ensemble@champion) or model folder.")],
    table: Annotated[Path, typer.Argument(help="Cohort table: CSV, TSV or XLSX; volumes relative to it.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="CSV to write, a row a patient.")] = None,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Answer for the patients of a table, from raw volumes.

    Who cannot be answered for is named and does not hold up the others; the exit code is then 2.

    Example: rlvo predict rlvo-ensemble@champion patients.csv -o answers.csv
    """
    if output is None and not json:
        raise RlvoError("nowhere to write the answers", fix="Give -o OUT.csv, or --json")
    from rlvo.cohort.tables import read_table
    from rlvo.cohort.variables import source_columns
    from rlvo.registry.inference import EnsemblePredictor
    from rlvo.registry.location import locate_model

    raw = read_table(table)
    predictor = EnsemblePredictor.load(locate_model(model, Workdir(workdir.expanduser().resolve()).tracking_uri()))
    needed = source_columns(predictor.members.description.predictors)
    if absent := [column for column in needed if column not in raw.cells]:
        _say(f"no column {', '.join(absent)}: imputed as in training, for every patient")
    with progress_bar("patients") as progress:
        answers = predictor.predict(
            raw.cells, table.resolve().parent, decimal_comma=raw.decimal_comma, progress=progress
        )
    if output is not None:
        atomic_write(output.expanduser().resolve(), answers.to_csv(index=False))
        _say(f"wrote {output}: {len(answers)} patients, {int(answers['rlvo'].sum())} with an alert")
    if json:
        emit_json(json_module.loads(answers.to_json(orient="records", double_precision=15)))
    _say(NOTICE)
    if unanswered := _unanswered(answers):
        raise CohortError(unanswered, where=table)


def _unanswered(answers: pd.DataFrame) -> list[Finding]:
    """A finding for every patient without an answer; the reason is the last of the warnings."""
    from rlvo.registry.inference import NOT_ANSWERED

    without = answers[answers["rlvo"].isna()]
    return [
        Finding(str(row.patient_id), None, NOT_ANSWERED + str(row.warnings).rpartition(NOT_ANSWERED)[2])
        for row in without.itertuples()
    ]


def build_and_register(study: StudyConfig, inputs: StudyInputs, workdir: Workdir) -> BuiltEnsemble:
    """Build every ensemble the study declares, freeze them, log and register the study's own."""
    from rlvo.config.base import content_hash
    from rlvo.ensemble.build import STUDY_ENSEMBLE, study_ensembles, validation_metrics
    from rlvo.ensemble.declared import write_declared
    from rlvo.ensemble.trials import read_trials, trial_weights
    from rlvo.registry.folder import describe, write_model_folder
    from rlvo.registry.packaging import register_ensemble

    folder = workdir.study(study.name)
    trials = read_trials(folder)
    specs = study_ensembles(trials.records, trials.predictions, study.ensemble)
    champion = specs[STUDY_ENSEMBLE]
    if (champion.split_hash, champion.data_hash) != (inputs.split.hash, inputs.data_hash):
        raise RlvoError(
            "the trials were trained on another split or other data", where=study.name, fix="Run 'rlvo search' again"
        )
    encoders = {fold.fold: inputs.encoder(fold.fold) for fold in champion.folds}
    write_declared(folder, specs)
    write_model_folder(
        folder / MODEL_FOLDER, describe(champion, encoders, inputs.target), lambda member: trial_weights(folder, member)
    )
    validation = {name: validation_metrics(spec, trials.predictions) for name, spec in specs.items()}
    run_id = _log_run(study, workdir, champion, _summary(validation[STUDY_ENSEMBLE]))
    version = register_ensemble(
        folder / MODEL_FOLDER,
        tracking_uri=workdir.tracking_uri(study.mlflow.tracking_uri),
        run_id=run_id,
        name=study.mlflow.registered_model,
        tags={"rlvo.study": study.name, "rlvo.ensemble": content_hash(champion)},
    )
    return BuiltEnsemble(specs, validation, folder / MODEL_FOLDER, study.mlflow.registered_model, version)


def evaluate_study(study: StudyConfig, inputs: StudyInputs, workdir: Workdir) -> HoldOut:
    """Open the study's hold-out for all its declared ensembles, and log the figures of its own to its run."""
    from rlvo.ensemble.build import STUDY_ENSEMBLE
    from rlvo.ensemble.declared import read_declared
    from rlvo.imaging.store import VolumeStore
    from rlvo.registry.folder import read_description
    from rlvo.registry.holdout import evaluate_ensembles
    from rlvo.search.study import read_study

    folder = workdir.study(study.name)
    specs = read_declared(folder)
    table = read_study(folder).cohort.table
    assert table is not None  # a study that was started names it
    with progress_bar("hold-out patients") as progress:
        holdout = evaluate_ensembles(
            specs,
            read_description(folder / MODEL_FOLDER),
            folder,
            inputs.table.loc[list(inputs.split.test)],
            inputs.label,
            table.parent,
            store=VolumeStore(workdir.store),
            progress=progress,
        )
    figures = asdict(holdout.figures[STUDY_ENSEMBLE])
    low, high = figures.pop("interval")
    _log_run(
        study,
        workdir,
        specs[STUDY_ENSEMBLE],
        {f"test/{k}": v for k, v in {**figures, "auc_low": low, "auc_high": high}.items()},
    )
    return holdout


def _open(study: str, work: Workdir) -> tuple[StudyConfig, StudyInputs]:
    """The study as it was started (a YAML file may change its ensemble settings) and its inputs, verified."""
    from rlvo.search.study import open_study, read_study

    given = load_study(Path(study)) if study.endswith((".yaml", ".yml")) else None
    frozen = read_study(work.study(given.name if given else study))
    assert frozen.cohort.table is not None  # open_study writes it
    inputs = open_study(given or frozen, frozen.cohort.table, work, progress=progress_bar)
    return read_study(work.study(frozen.name)), inputs


def _log_run(study: StudyConfig, workdir: Workdir, champion: EnsembleSpec, metrics: dict[str, float]) -> str:
    from rlvo.config.base import content_hash
    from rlvo.tracking.ensemble_run import log_ensemble_run

    return log_ensemble_run(
        study,
        workdir.study(study.name),
        workdir.tracking_uri(study.mlflow.tracking_uri),
        workdir.artifacts,
        key=content_hash(champion),
        name=f"ensemble {content_hash(champion)[:8]}",
        params={
            "weighting": champion.weighting,
            "tie": champion.tie,
            "folds": len(champion.folds),
            **{c.model.modality: f"{c.label} ({c.key})" for c in champion.configurations},
        },
        metrics={name: float(value) for name, value in metrics.items() if value == value},
        files=[workdir.study(study.name) / MODEL_FOLDER / "ensemble.json"],
    )


def _validation(folder: Path) -> dict[str, pd.DataFrame]:
    from rlvo.ensemble.build import validation_metrics
    from rlvo.ensemble.declared import read_declared
    from rlvo.ensemble.trials import read_trials

    predictions = read_trials(folder).predictions
    return {name: validation_metrics(spec, predictions) for name, spec in read_declared(folder).items()}


def _summary(metrics: pd.DataFrame) -> dict[str, float]:
    """`val/<metric>_mean` and `_sd` over folds."""
    means = {f"val/{name}_mean": value for name, value in metrics.mean().items()}
    return means | {f"val/{name}_sd": value for name, value in metrics.std().items()}


def _validation_table(built: BuiltEnsemble, study: str) -> Table:
    table = Table(
        title=f"{study}: mean over folds (SD) on validation",
        caption="Optimistic: weights and thresholds were fitted there.",
        box=None,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    table.add_column("members")
    for name in ("AUC", "bal. acc.", "sens.", "spec."):
        table.add_column(name, justify="right", no_wrap=True)
    for name, spec in built.specs.items():
        metrics = built.validation[name]
        members = ", ".join(f"{c.model.modality} {c.model.fusion}" for c in spec.configurations)
        shown = [metrics[column] for column in ("auc", "balanced_accuracy", "sensitivity", "specificity")]
        table.add_row(name, members, *(f"{values.mean():.2f} ({values.std():.2f})" for values in shown))
    return table


def _validation_json(built: BuiltEnsemble, name: str) -> dict[str, Any]:
    spec = built.specs[name]
    return {
        "configurations": {c.model.modality: c.label for c in spec.configurations},
        "validation_optimistic": _summary(built.validation[name]),
        "notes": list(spec.notes),
    }


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
