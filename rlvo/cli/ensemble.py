"""`rlvo ensemble`: from trials to a registered model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rlvo.cli.common import JsonOption, WorkdirOption, console, emit_json, say
from rlvo.cli.studies import (
    MODEL_FOLDER,
    StudyArgument,
    baselines,
    by_modality,
    cohort_folder,
    log_ensemble,
    log_summary,
    open_searched_study,
)
from rlvo.config.loading import load_study
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError

if TYPE_CHECKING:
    import pandas as pd

    from rlvo.ensemble.member import MemberSpec
    from rlvo.ensemble.spec import EnsembleSpec
    from rlvo.registry.folder import Variant
    from rlvo.search.inputs import StudyInputs

RELIABILITY = "ensemble/reliability"


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
    is_new: bool
    """Not so where this very ensemble was registered before."""


def ensemble(
    study: StudyArgument,
    compare: Annotated[
        bool, typer.Option("--compare", help="Table every selection and weighting, and register nothing.")
    ] = False,
    partial: Annotated[bool, typer.Option("--partial", help="Go on without trials or modalities that lack.")] = False,
    reduced: Annotated[
        str | None,
        typer.Option(help="A study with fewer predictors (Model B): its ensemble answers where CT perfusion lacks."),
    ] = None,
    check_bfloat16: Annotated[
        bool, typer.Option("--check-bfloat16", help="At registration: also measure what reduced precision changes.")
    ] = False,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Build a study's ensembles from its stored validation predictions, and register the study's own.

    The registered version must reproduce the stored predictions before it becomes the champion.

    Example: rlvo ensemble demo
    """
    work = Workdir.at(workdir)
    if compare:
        _compare(study, work, json=json)
        return
    config, inputs = open_searched_study(study, work)
    built = build_and_register(config, inputs, work, partial=partial, reduced=reduced, check_bfloat16=check_bfloat16)
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
    if built.is_new:
        say(f"registered {built.model} version {built.version}, alias champion")
    else:
        say(f"registered before: {built.model} version {built.version}")
    say(f"calibration: {work.study(config.name) / RELIABILITY}.png")
    say(f"next: rlvo evaluate {config.name} --workdir {workdir}")


def build_and_register(
    study: StudyConfig,
    inputs: StudyInputs,
    workdir: Workdir,
    *,
    partial: bool = False,
    reduced: str | None = None,
    check_bfloat16: bool = False,
) -> BuiltEnsemble:
    """Build every ensemble the study declares, freeze them, log and register the study's own.

    Args:
        partial: go on without what is missing.
        reduced: name of the study whose ensemble answers where CT perfusion is missing.
        check_bfloat16: have the gate say what reduced precision changes.
    """
    from rlvo.config.base import content_hash
    from rlvo.ensemble.build import STUDY_ENSEMBLE, fallbacks, study_ensembles, validation_metrics
    from rlvo.ensemble.comparison import compare_ensembles, nested_probabilities
    from rlvo.ensemble.declared import write_declared
    from rlvo.ensemble.selection import searched_modalities
    from rlvo.ensemble.trials import read_trials, trial_weights
    from rlvo.evaluation.predictions import check_out_of_fold
    from rlvo.registry.card import model_card
    from rlvo.registry.cohort_summary import summarise
    from rlvo.registry.folder import describe, write_model_folder
    from rlvo.registry.gate import Evidence
    from rlvo.registry.packaging import register_ensemble
    from rlvo.registry.provenance import provenance
    from rlvo.registry.versions import registered_version
    from rlvo.report.calibration import draw_reliability
    from rlvo.search.study import read_study

    folder, settings = workdir.study(study.name), study.ensemble
    trials = read_trials(folder)
    specs = study_ensembles(
        trials.records,
        trials.predictions,
        settings,
        modalities=searched_modalities(study),
        missing=trials.missing,
        partial=partial,
    )
    champion = specs[STUDY_ENSEMBLE]
    if (champion.split_hash, champion.data_hash) != (inputs.split.hash, inputs.data_hash):
        raise RlvoError(
            "the trials were trained on another split or other data", where=study.name, fix="Run 'rlvo search' again"
        )
    check_out_of_fold(trials.predictions, inputs.split.folds, inputs.split.test)
    development = inputs.table.loc[list(inputs.split.development)]
    other = _reduced_variant(reduced, inputs, workdir, partial=partial) if reduced else None
    description = describe(
        champion,
        {fold.fold: inputs.encoder(fold.fold) for fold in champion.folds},
        inputs.target,
        reduced=[] if other is None else [other],
        fallbacks=fallbacks(champion, trials.predictions),
        cohort=summarise(development, inputs.label[development.index], inputs.predictors),
        provenance=provenance(read_study(folder)),
    )
    write_declared(folder, specs)

    def weights(variant: Variant, member: MemberSpec) -> Path:
        return trial_weights(workdir.study(reduced) if reduced and variant is other else folder, member)

    write_model_folder(folder / MODEL_FOLDER, description, weights)
    validation = {name: validation_metrics(spec, trials.predictions) for name, spec in specs.items()}
    calibrated = nested_probabilities(trials.records, trials.predictions, settings)
    label, probability = (calibrated[column].to_numpy() for column in ("label", "probability"))
    pictures = draw_reliability(folder / RELIABILITY, label, probability, name="Out of fold, nested")
    run_id = log_ensemble(study, workdir, champion, _summary(validation[STUDY_ENSEMBLE]), pictures)
    for name, result in baselines(inputs).items():
        metrics = _summary(result.validation_metrics())
        log_summary(study, workdir, "baseline", name, name, {"predictors": len(result.predictors)}, metrics)
    uri, name = workdir.tracking_uri(study.mlflow.tracking_uri), study.mlflow.registered_model
    variants = content_hash([variant.model_dump(mode="json") for variant in description.variants])
    tags = {
        "rlvo.study": study.name,
        "rlvo.ensemble": content_hash(champion),
        "rlvo.variants": variants,
        "rlvo.code_hash": description.provenance["code_hash"],
    }
    version = registered_version(uri, name, tags)
    is_new = version is None
    if version is None:
        compared = compare_ensembles(trials.records, trials.predictions, [settings.selection], [settings.weighting])
        version = register_ensemble(
            folder / MODEL_FOLDER,
            tracking_uri=uri,
            run_id=run_id,
            name=name,
            evidence=Evidence(trials.predictions, development, cohort_folder(folder), workdir.store, check_bfloat16),
            card=model_card(description, compared),
            tags=tags,
        )
    return BuiltEnsemble(specs, validation, folder / MODEL_FOLDER, name, version, is_new)


def _reduced_variant(name: str, inputs: StudyInputs, workdir: Workdir, *, partial: bool) -> Variant:
    """The ensemble of a study of fewer predictors on the same split and volumes."""
    from rlvo.ensemble.build import STUDY_ENSEMBLE, study_ensembles
    from rlvo.ensemble.selection import searched_modalities
    from rlvo.ensemble.trials import read_trials
    from rlvo.registry.folder import Variant

    study, own = open_searched_study(name, workdir)
    more = sorted(set(own.predictors) - set(inputs.predictors))
    if own.split.hash != inputs.split.hash or own.target != inputs.target or more:
        what = f"it has {', '.join(more)} beside the study's predictors" if more else "it has another split or grid"
        raise RlvoError(what, where=f"--reduced {name}", fix="Search with fewer predictors and all else the same")
    trials = read_trials(workdir.study(study.name))
    spec = study_ensembles(
        trials.records,
        trials.predictions,
        study.ensemble,
        modalities=searched_modalities(study),
        missing=trials.missing,
        partial=partial,
    )[STUDY_ENSEMBLE]
    encoders = {fold.fold: own.encoder(fold.fold) for fold in spec.folds}
    return Variant(name=f"fewer predictors ({study.name})", spec=spec, encoders=encoders)


def _compare(study: str, workdir: Workdir, *, json: bool) -> None:
    from rlvo.ensemble.comparison import compare_ensembles
    from rlvo.ensemble.trials import read_trials
    from rlvo.search.study import read_study

    name = load_study(Path(study)).name if study.endswith((".yaml", ".yml")) else study
    folder = workdir.study(name)
    read_study(folder)
    trials = read_trials(folder)
    compared = compare_ensembles(trials.records, trials.predictions)
    if json:
        emit_json({"study": name, "out_of_fold": compared.to_dict("records")})
        return
    table = Table(
        title=f"{name}: out-of-fold patients, each scored by its own fold",
        caption="* Optimistic: chosen, weighted and thresholded on the patients that are scored. The others: nested, on"
        " other folds. The vote over folds cannot be seen there; the hold-out shows it.",
        box=None,
        pad_edge=False,
    )
    table.add_column("selection")
    table.add_column("weighting")
    for heading in ("AUC*", "AUC (95 %)", "bal. acc.", "sens.", "spec."):
        table.add_column(heading, justify="right", no_wrap=True)
    for (selection, weighting), pair in compared.groupby(["selection", "weighting"], sort=False):
        rows: dict[Any, Any] = pair.set_index("estimate").to_dict("index")
        nested = rows["nested"]
        table.add_row(
            str(selection).replace("_", " "),
            str(weighting).replace("_", " "),
            f"{rows['optimistic']['auc']:.2f}",
            f"{nested['auc']:.2f} ({nested['low']:.2f}–{nested['high']:.2f})",
            *(f"{nested[column]:.2f}" for column in ("balanced_accuracy", "sensitivity", "specificity")),
        )
    console.print(table)


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
        members = ", ".join(dict.fromkeys(f"{c.model.modality} {c.model.fusion}" for c in spec.configurations))
        shown = [metrics[column] for column in ("auc", "balanced_accuracy", "sensitivity", "specificity")]
        table.add_row(name, members, *(f"{values.mean():.2f} ({values.std():.2f})" for values in shown))
    return table


def _validation_json(built: BuiltEnsemble, name: str) -> dict[str, Any]:
    spec = built.specs[name]
    return {
        "configurations": by_modality(spec),
        "validation_optimistic": _summary(built.validation[name]),
        "notes": list(spec.notes),
    }
