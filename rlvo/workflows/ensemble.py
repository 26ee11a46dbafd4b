"""From trials to a registered model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from sklearn.metrics import roc_auc_score

from rlvo.config.base import content_hash
from rlvo.config.study import StudyConfig
from rlvo.ensemble.build import (
    STUDY_ENSEMBLE,
    calibrate_to_answers,
    calibration_folds,
    fit_fallbacks,
    study_ensembles,
    validation_metrics,
)
from rlvo.ensemble.comparison import (
    compare_ensembles,
    nested_basis,
    nested_probabilities,
)
from rlvo.ensemble.fitting import networks_alone
from rlvo.ensemble.selection import (
    IncompleteError,
    UnfinishedError,
    folds_unseen_by_pruning,
    mean_over_repeats,
    rank_configurations,
    searched_modalities,
)
from rlvo.ensemble.spec import EnsembleSpec, MemberSpec
from rlvo.errors import RlvoError, get_logger
from rlvo.evaluation.predictions import check_out_of_fold
from rlvo.inference.description import ModelDescription, Variant, describe, write_model_folder
from rlvo.inference.training_cohort import summarise
from rlvo.progress import ShowProgress, no_progress
from rlvo.registry.card import model_card
from rlvo.registry.gate import Evidence, check_version
from rlvo.registry.register import provenance, register_ensemble
from rlvo.registry.versions import registered_version, version_gate
from rlvo.report.baselines import unbeaten, unbeaten_by_networks
from rlvo.report.calibration import draw_reliability
from rlvo.study.folder import StudyFolder, write_declared
from rlvo.study.image_baseline import IMAGE, JOINT, fit_image_baselines, read_image_models
from rlvo.study.pretrained import seen_by
from rlvo.study.trials import EndedTrials, altered_weights, member_weights
from rlvo.synthetic.cohort import has_synthetic
from rlvo.tracking.datasets import PatientGroup
from rlvo.workflows.disagreement import measure_disagreement
from rlvo.workflows.ensemble_artifacts import ensemble_figures
from rlvo.workflows.study import OpenStudy, open_searched_study

logger = get_logger(__name__)


@dataclass(frozen=True, eq=False)
class BuiltEnsemble:
    """A study's ensembles, the first of which is registered."""

    specs: dict[str, EnsembleSpec]
    validation: dict[str, pd.DataFrame]
    """For each ensemble `classification_metrics`, one row per fold, on validation patients: optimistic."""
    folder: Path
    """The model folder that was registered."""
    reliability: tuple[Path, ...]
    """Pictures of the calibration, out of fold and nested."""
    model: str
    version: str
    is_new: bool
    """False if this very ensemble was registered before."""
    gate: str
    """What the gate found about the version."""
    unbeaten: tuple[str, ...] = ()
    """As in `FrozenEnsembles`."""

    @property
    def registered(self) -> str:
        """The version that is registered, and what its gate found, in a sentence."""
        what = f"{self.model} version {self.version}"
        is_new = f"registered {what}, alias champion" if self.is_new else f"registered before: {what}"
        return f"{is_new}; gate {self.gate}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing from the study's own ensemble, or weak in it."""
        return self.specs[STUDY_ENSEMBLE].notes


@dataclass(frozen=True, eq=False)
class FrozenEnsembles:
    """A study's ensembles, built, frozen and logged."""

    specs: dict[str, EnsembleSpec]
    validation: dict[str, pd.DataFrame]
    """As in `BuiltEnsemble`, like the pictures."""
    reliability: tuple[Path, ...]
    description: ModelDescription
    """Of the study's own ensemble, whose model folder was written."""
    compared: pd.DataFrame
    """`compare_ensembles` of the study's own way."""
    predictions: pd.DataFrame
    figures: dict[PatientGroup, dict[str, float]]
    run_id: str
    unbeaten: tuple[str, ...]
    """Which baselines the study's own ensemble and networks do not beat out of fold, in sentences."""


def freeze_ensembles(
    study: OpenStudy, *, partial: bool = False, reduced: str | None = None, progress: ShowProgress = no_progress
) -> FrozenEnsembles:
    """Build every ensemble the study declares, freeze them, and log the study's own.

    Arguments and errors are those of `build_and_register`.
    """
    study.tracking.open_experiment(study.config.name)  # if MLflow is away, it is told before minutes of work
    trials = _ended_trials(study, partial, progress)
    specs, trials = _choose(study, trials, partial)
    fit_image_baselines(study.folder, study.inputs, study.config.grid, progress)
    _check_trained_on(study, specs[STUDY_ENSEMBLE], trials)
    fewer = _open_reduced(reduced, study, progress) if reduced else None
    settings, unseen = study.config.ensemble, calibration_folds(trials.records, study.config.ensemble)
    fallbacks = fit_fallbacks(specs[STUDY_ENSEMBLE], trials.predictions, settings, calibrate_on=unseen)
    disagreements = measure_disagreement(study, specs[STUDY_ENSEMBLE], {**specs, **fallbacks}, progress)
    specs, fallbacks = (
        {name: _calibrate(spec, trials, disagreements.get(name)) for name, spec in each.items()}
        for each in (specs, fallbacks)
    )
    description = _describe(study, specs[STUDY_ENSEMBLE], fallbacks, fewer, partial, progress)
    write_declared(study.folder, specs)
    reduced_variant = description.variants[1] if fewer is not None else None

    def weights(variant: Variant, member: MemberSpec) -> Path:
        trained = fewer if fewer is not None and variant is reduced_variant else study
        return member_weights(trained.folder, member)

    write_model_folder(study.folder.model, description, weights)
    validation = {name: validation_metrics(spec, trials.predictions) for name, spec in specs.items()}
    spread = disagreements.get(STUDY_ENSEMBLE)
    calibrated = nested_probabilities(trials.records, trials.predictions, settings, spread)
    label, probability = (calibrated[column].to_numpy() for column in ("label", "probability"))
    title = f"Out of fold, nested ({nested_basis(trials.records)})"
    title += "" if spread is None else ";\nas the mean over folds"
    pictures = draw_reliability(study.folder.reliability, label, probability, name=title)
    compared = compare_ensembles(trials.records, trials.predictions, [settings])
    optimistic, nested = mean_and_sd(validation[STUDY_ENSEMBLE]), nested_figures(compared)
    figures = {study.groups.optimistic: optimistic, study.groups.nested: nested}
    drawn = ensemble_figures(study, trials)
    run_id = study.log_ensemble(specs[STUDY_ENSEMBLE], figures, pictures, drawn)
    for name, result in study.baselines.items():
        metrics = mean_and_sd(result.validation_metrics())
        params = {"predictors": len(result.predictors)}
        study.log_figures("baseline", name, name, metrics, params, datasets=[study.groups.optimistic])
    return FrozenEnsembles(
        specs, validation, tuple(pictures), description, compared, trials.predictions, figures, run_id,
        _unbeaten(study, trials, nested["nested/auc"], calibrated.index),
    )  # fmt: skip


def _ended_trials(study: OpenStudy, partial: bool, progress: ShowProgress) -> EndedTrials:
    """Those of a study, with what its linear models say if they may be members."""
    trials, settings = study.ended_trials(), study.config.ensemble
    if settings.linear_image == "none":
        return trials
    # If trials are missing, that is told before every volume is read.
    networks = study.config.model_copy(update={"ensemble": networks_alone(settings)})
    declare(study.folder, networks, trials, partial)
    fit_image_baselines(study.folder, study.inputs, study.config.grid, progress, need_models=True)
    return study.ended_trials()


def _unbeaten(study: OpenStudy, trials: EndedTrials, auc: float, scored: pd.Index) -> tuple[str, ...]:
    """What is not beaten out of fold: by the ensemble, whose nested AUC on the scored patients is given, or networks.

    Networks that see images alone are compared with the linear model of the image, the others with that of both.
    """
    answers = {name: result.nested_answers().loc[scored] for name, result in study.baselines.items()}
    found = unbeaten(auc, {name: roc_auc_score(own["label"], own["score"]) for name, own in answers.items()})
    ranked = mean_over_repeats(rank_configurations(trials.records).candidates)
    for name, fuses in ((IMAGE, False), (JOINT, True)):
        own = [each.auc for each in ranked if (each.configuration.model.fusion != "none") == fuses]
        if own and name in study.baselines:
            mean = float(study.baselines[name].validation_metrics()["auc"].mean())
            found += unbeaten_by_networks(own, name, mean)
    return tuple(found)


def build_and_register(
    study: OpenStudy,
    *,
    partial: bool = False,
    reduced: str | None = None,
    check_bfloat16: bool = False,
    progress: ShowProgress = no_progress,
) -> BuiltEnsemble:
    """Build every ensemble the study declares, freeze them, and log and register the study's own.

    Args:
        partial: build even if trials or modalities are missing.
        reduced: name of a study whose ensemble answers for patients without CT perfusion.
        check_bfloat16: have the gate measure what reduced precision changes.

    Raises:
        RlvoError: trials are missing, or belong to another split, other data or another study.
        MachineError: MLflow does not answer, or the registered version does not reproduce the stored predictions.
    """
    frozen = freeze_ensembles(study, partial=partial, reduced=reduced, progress=progress)
    description, specs, model = frozen.description, frozen.specs, study.config.mlflow.registered_model
    tags = {  # by these a version is recognised as the same ensemble, from the same study and code
        "rlvo.study": study.config.name,
        "rlvo.ensemble": content_hash(description.spec),
        "rlvo.variants": content_hash([variant.model_dump(mode="json") for variant in description.variants]),
        "rlvo.code_hash": description.provenance["code_hash"],
    }
    version = known = registered_version(study.tracking, model, tags)
    if version is None:
        evidence = Evidence(
            frozen.predictions, study.development, study.inputs.cohort_folder, study.work.store, check_bfloat16
        )
        version = register_ensemble(
            study.folder.model,
            study.tracking,
            run_id=frozen.run_id,
            name=model,
            check=lambda root: check_version(root, description, evidence),
            card=model_card(description, frozen.compared),
            tags=tags,
        )
        study.log_model(specs[STUDY_ENSEMBLE], version, frozen.figures)
    gate = version_gate(study.tracking, model, version)
    return BuiltEnsemble(
        specs, frozen.validation, study.folder.model, frozen.reliability, model, version, known is None, gate,
        frozen.unbeaten,
    )  # fmt: skip


def mean_and_sd(metrics: pd.DataFrame) -> dict[str, float]:
    """`val/<metric>_mean` and `val/<metric>_sd` over folds, one row of `metrics` each."""
    means = {f"val/{name}_mean": value for name, value in metrics.mean().items()}
    return means | {f"val/{name}_sd": value for name, value in metrics.std().items()}


def nested_figures(compared: pd.DataFrame) -> dict[str, float]:
    """`nested/<metric>`, with the bounds of the AUC, from `compare_ensembles` of one way."""
    (row,) = compared[compared["estimate"] == "nested"].to_dict("records")
    names = {"auc": "auc", "low": "auc_low", "high": "auc_high"}
    names |= {name: name for name in ("balanced_accuracy", "sensitivity", "specificity")}
    return {f"nested/{name}": float(row[column]) for column, name in names.items()}


def declare(study: StudyFolder, config: StudyConfig, trials: EndedTrials, partial: bool) -> dict[str, EnsembleSpec]:
    """Every ensemble that a study declares, by name: `rlvo.ensemble.build.study_ensembles`."""
    settings, modalities = config.ensemble, searched_modalities(config)
    with finishing(study):
        return study_ensembles(
            trials.records, trials.predictions, settings, modalities=modalities, missing=trials.missing, partial=partial
        )


def _choose(study: OpenStudy, trials: EndedTrials, partial: bool) -> tuple[dict[str, EnsembleSpec], EndedTrials]:
    """The ensembles of `declare`, and the trials without those that would be members but for altered weights."""
    specs = declare(study.folder, study.config, trials, partial)
    while altered := altered_weights(study.folder, trials, specs):
        trials = trials.without(altered)
        specs = declare(study.folder, study.config, trials, partial)
    return specs, trials


@contextmanager
def finishing(study: StudyFolder) -> Iterator[None]:
    """Have errors about trials that have not finished say how they do."""
    try:
        yield
    except UnfinishedError as error:
        fix = f"Let `{study.command('search')}` finish"
        if isinstance(error, IncompleteError):
            fix += f", or build without them: {study.command('ensemble', '--partial')}"
        raise RlvoError(error.what, where=study.path.name, fix=fix) from None


def _check_trained_on(study: OpenStudy, spec: EnsembleSpec, trials: EndedTrials) -> None:
    """The trials are of the split and the data that the study has now, and their predictions are out of fold."""
    split = study.inputs.split
    if (spec.split_hash, spec.data_hash) != (split.hash, study.inputs.data_hash):
        what = "the trials were trained on another split or other data"
        raise RlvoError(what, where=study.config.name, fix=f"Train them again: {study.folder.command('search')}")
    check_out_of_fold(trials.predictions, split.folds, split.test)


def _open_reduced(name: str, study: OpenStudy, progress: ShowProgress) -> OpenStudy:
    """A study of fewer predictors on the same split and volumes."""
    fewer = open_searched_study(name, study.work, progress=progress)
    more = sorted(set(fewer.inputs.predictors) - set(study.inputs.predictors))
    if fewer.inputs.split.hash != study.inputs.split.hash or fewer.inputs.target != study.inputs.target or more:
        what = f"it has more predictors: {', '.join(more)}" if more else "it has another split or grid"
        fix = "Search with fewer predictors and everything else the same"
        raise RlvoError(what, where=f"--reduced {name}", fix=fix)
    if {*fewer.inputs.own} - {*study.inputs.own}:
        what, fix = "it declares a predictor otherwise", "Search with the same declarations"
        raise RlvoError(what, where=f"--reduced {name}", fix=fix)
    return fewer


def _calibrate(spec: EnsembleSpec, trials: EndedTrials, spread: float | None) -> EnsembleSpec:
    if spread is None:
        return spec
    unseen = folds_unseen_by_pruning(trials.records)
    return calibrate_to_answers(spec, trials.predictions, spread, calibrate_on=unseen)


def _describe(
    study: OpenStudy,
    champion: EnsembleSpec,
    fallbacks: Mapping[str, EnsembleSpec],
    fewer: OpenStudy | None,
    partial: bool,
    progress: ShowProgress,
) -> ModelDescription:
    reduced = []
    if fewer is not None:
        specs, trials = _choose(fewer, _ended_trials(fewer, partial, progress), partial)
        spec = specs[STUDY_ENSEMBLE]
        spread = measure_disagreement(fewer, spec, {STUDY_ENSEMBLE: spec}, progress).get(STUDY_ENSEMBLE)
        spec = _calibrate(spec, trials, spread)
        name = f"fewer predictors ({fewer.config.name})"
        encoders, models = {f.fold: fewer.inputs.encoder(f.fold) for f in spec.folds}, fewer.inputs.table_models(spec)
        linear = read_image_models(fewer.folder, spec)
        reduced = [Variant(name=name, spec=spec, encoders=encoders, table_models=models, image_models=linear)]
    development, predictors = study.development, study.inputs.predictors
    every = (champion, *fallbacks.values(), *(variant.spec for variant in reduced))
    return describe(
        champion,
        {fold.fold: study.inputs.encoder(fold.fold) for fold in champion.folds},
        study.inputs.target,
        table_models=study.inputs.table_models(champion),
        image_models=read_image_models(study.folder, champion),
        reduced=reduced,
        fallbacks=fallbacks,
        cohort=summarise(
            development,
            study.inputs.label[development.index],
            predictors,
            study.inputs.own,
            synthetic=has_synthetic(development.index),
        ),
        provenance=provenance(study.config),
        seen_scans=seen_by([each for spec in every for each in spec.configurations], study.work),
    )
