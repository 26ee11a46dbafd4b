"""`rlvo ensemble`, `rlvo evaluate`: from trials to a registered model, and to its figures on the hold-out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from rlvo import NOTICE
from rlvo.cli.common import JsonOption, WorkdirOption, console, emit_json, progress_bar
from rlvo.config.loading import load_study
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError

if TYPE_CHECKING:
    import pandas as pd

    from rlvo.ensemble.spec import EnsembleSpec
    from rlvo.evaluation.figures import Figures
    from rlvo.evaluation.subgroups import Subgroup
    from rlvo.registry.holdout import HoldOut
    from rlvo.report.tables import Performance
    from rlvo.search.inputs import StudyInputs
    from rlvo.training.baseline import BaselineResult

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


@dataclass(frozen=True)
class Evaluation:
    """One opening of a study's hold-out."""

    holdout: HoldOut
    baselines: dict[str, Performance]
    """The clinical baselines on the same folds and the same hold-out, by name."""


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
    """Open the hold-out for the ensembles a study has declared, and the clinical baselines; every opening is counted.

    The study's own ensemble is shown in subgroups too.

    Example: rlvo evaluate demo
    """
    from rlvo.report.subgroups import subgroup_table
    from rlvo.report.tables import Performance, performance_table

    work = Workdir.at(workdir)
    config, inputs = _open(study, work)
    evaluated = evaluate_study(config, inputs, work)
    holdout, subgroups = evaluated.holdout, ensemble_subgroups(inputs, evaluated.holdout)
    if json:
        emit_json(
            {
                "opening": holdout.opening,
                "split_hash": inputs.split.hash,
                "ensembles": {name: asdict(of_name) for name, of_name in holdout.figures.items()},
                "baselines": {name: asdict(model.holdout) for name, model in evaluated.baselines.items()},
                "subgroups": [{**vars(each), "levels": each.levels.to_dict("records")} for each in subgroups],
                "notice": NOTICE,
            }
        )
        return
    validation = _validation(work.study(config.name))
    models = {name: Performance(validation[name], figures) for name, figures in holdout.figures.items()}
    title = f"{config.name}: opening {holdout.opening} of its hold-out"
    console.print(performance_table({**evaluated.baselines, **models}, title=title))
    console.print(subgroup_table(subgroups, title=f"\n{config.name}: its own ensemble in subgroups of the hold-out"))
    first = next(iter(holdout.figures.values()))
    if first.unanswered:
        _say(f"{first.unanswered} patients could not be answered for and are left out; the kept answers say why")
    _say(NOTICE)


def build_and_register(study: StudyConfig, inputs: StudyInputs, workdir: Workdir) -> BuiltEnsemble:
    """Build every ensemble the study declares, freeze them, log and register the study's own."""
    from rlvo.config.base import content_hash
    from rlvo.ensemble.build import STUDY_ENSEMBLE, study_ensembles, validation_metrics
    from rlvo.ensemble.declared import write_declared
    from rlvo.ensemble.trials import read_trials, trial_weights
    from rlvo.evaluation.predictions import check_out_of_fold
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
    check_out_of_fold(trials.predictions, inputs.split.folds, inputs.split.test)
    encoders = {fold.fold: inputs.encoder(fold.fold) for fold in champion.folds}
    write_declared(folder, specs)
    write_model_folder(
        folder / MODEL_FOLDER, describe(champion, encoders, inputs.target), lambda member: trial_weights(folder, member)
    )
    validation = {name: validation_metrics(spec, trials.predictions) for name, spec in specs.items()}
    run_id = _log_run(study, workdir, champion, _summary(validation[STUDY_ENSEMBLE]))
    for name, result in _baselines(inputs).items():
        metrics = _summary(result.validation_metrics())
        _log_summary(study, workdir, "baseline", name, name, {"predictors": len(result.predictors)}, metrics)
    version = register_ensemble(
        folder / MODEL_FOLDER,
        tracking_uri=workdir.tracking_uri(study.mlflow.tracking_uri),
        run_id=run_id,
        name=study.mlflow.registered_model,
        tags={"rlvo.study": study.name, "rlvo.ensemble": content_hash(champion)},
    )
    return BuiltEnsemble(specs, validation, folder / MODEL_FOLDER, study.mlflow.registered_model, version)


def evaluate_study(study: StudyConfig, inputs: StudyInputs, workdir: Workdir) -> Evaluation:
    """Open the study's hold-out for its declared ensembles and the baselines; log the figures of its own and theirs."""
    from rlvo.ensemble.build import STUDY_ENSEMBLE
    from rlvo.ensemble.declared import read_declared
    from rlvo.imaging.store import VolumeStore
    from rlvo.registry.folder import read_description
    from rlvo.registry.holdout import evaluate_ensembles
    from rlvo.report.baselines import baseline_performance
    from rlvo.search.study import read_study

    folder, test = workdir.study(study.name), inputs.table.loc[list(inputs.split.test)]
    specs = read_declared(folder)
    table = read_study(folder).cohort.table
    assert table is not None  # a study that was started names it
    with progress_bar("hold-out patients") as progress:
        holdout = evaluate_ensembles(
            specs,
            read_description(folder / MODEL_FOLDER),
            folder,
            test,
            inputs.label,
            table.parent,
            store=VolumeStore(workdir.store),
            progress=progress,
        )
    _log_run(study, workdir, specs[STUDY_ENSEMBLE], _test_metrics(holdout.figures[STUDY_ENSEMBLE]))
    baselines = baseline_performance(_baselines(inputs), test, inputs.label)
    for name, model in baselines.items():
        _log_summary(study, workdir, "baseline", name, name, {}, _test_metrics(model.holdout))
    return Evaluation(holdout, baselines)


def ensemble_subgroups(inputs: StudyInputs, holdout: HoldOut) -> list[Subgroup]:
    """The study's own ensemble on its hold-out, by sex, age, site, center and etiology."""
    from rlvo.ensemble.build import STUDY_ENSEMBLE
    from rlvo.evaluation.subgroups import standard_groupings, subgroup

    answers = holdout.answers[holdout.answers["ensemble"] == STUDY_ENSEMBLE].dropna(subset="score")
    own = answers.set_index("patient_id")
    groupings = standard_groupings(inputs.table.loc[own.index], own["label"])
    votes = own["rlvo"].to_numpy(int)
    return [subgroup(name, level, own["label"], own["score"], votes) for name, level in groupings.items()]


def _baselines(inputs: StudyInputs) -> dict[str, BaselineResult]:
    from rlvo.training.baseline import clinical_baselines

    return clinical_baselines(inputs.table, inputs.label, inputs.split, inputs.predictors)


def _test_metrics(figures: Figures) -> dict[str, float]:
    values = asdict(figures)
    low, high = values.pop("interval")
    return {f"test/{name}": value for name, value in {**values, "auc_low": low, "auc_high": high}.items()}


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

    params: dict[str, object] = {
        "weighting": champion.weighting,
        "tie": champion.tie,
        "folds": len(champion.folds),
        **{c.model.modality: f"{c.label} ({c.key})" for c in champion.configurations},
    }
    key, file = content_hash(champion), workdir.study(study.name) / MODEL_FOLDER / "ensemble.json"
    return _log_summary(study, workdir, "ensemble", key, f"ensemble {key[:8]}", params, metrics, [file])


def _log_summary(
    study: StudyConfig,
    workdir: Workdir,
    kind: Literal["ensemble", "baseline"],
    key: str,
    name: str,
    params: dict[str, object],
    metrics: dict[str, float],
    files: Sequence[Path] = (),
) -> str:
    from rlvo.tracking.summary_run import log_summary_run

    return log_summary_run(
        study,
        workdir.study(study.name),
        workdir.tracking_uri(study.mlflow.tracking_uri),
        workdir.artifacts,
        kind=kind,
        key=key,
        name=name,
        params=params,
        metrics={metric: float(value) for metric, value in metrics.items() if value == value},
        files=files,
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
