"""Opening a study's hold-out and telling MLflow what it showed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rlvo.config.base import content_hash
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.ensemble.build import STUDY_ENSEMBLE
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.evaluation.answers import measure_answers
from rlvo.evaluation.performance import Performance
from rlvo.progress import ShowProgress, no_progress
from rlvo.registry.card import add_to_description
from rlvo.registry.versions import registered_version
from rlvo.report.external import card_lines
from rlvo.study.folder import read_declared, started_studies
from rlvo.study.membership import patient_marks
from rlvo.study.openings import Openings
from rlvo.tracking.after_search import read_seals, write_seal
from rlvo.workflows.ensemble_artifacts import ensemble_figures
from rlvo.workflows.holdout import Evaluation, HoldOut, evaluation_of, open_together
from rlvo.workflows.study import OpenStudy, ReadStudy, read_study, tracking_of


def evaluate(study: OpenStudy, *, reason: str | None = None, progress: ShowProgress = no_progress) -> Evaluation:
    """Open a study's hold-out for its declared ensembles and the clinical baselines.

    The figures of its own ensemble and of the baselines go to their runs in MLflow, the former also to the description
    of the registered version.

    Args:
        reason: why it is opened again; needed if it was opened before.

    Raises:
        RlvoError: as `open_together`.
        MachineError: MLflow does not answer.
    """
    return evaluate_together([study], reason=reason, progress=progress)[0]


def evaluate_together(
    studies: Sequence[OpenStudy], *, reason: str | None = None, progress: ShowProgress = no_progress
) -> list[Evaluation]:
    """As `evaluate`, for several studies that hold out the same patients, in one opening.

    Args:
        studies: the one in whose name the hold-out is opened, then the others.
    """
    study, declared, openings = studies[0], [read_declared(each.folder) for each in studies], _openings(studies[0])
    with progress("hold-out patients") as advance:
        holdouts = open_together(list(zip(studies, declared, strict=True)), openings, reason=reason, advance=advance)
    seal = openings.seal()
    assert seal is not None  # it was just opened
    write_seal(study.config, study.folder, study.tracking, seal=seal, openings=holdouts[0].opening)
    return [_log(*each) for each in zip(studies, declared, holdouts, strict=True)]


def check_evaluation(name: str | Path | StudyConfig, work: Workdir, reason: str | None) -> None:
    """Raise, before any volume is looked at, what is known by then of why a study's hold-out cannot be opened.

    Raises:
        RlvoError: no ensemble was built, the hold-out was opened before and no reason is given, or the log was altered.
        MachineError: MLflow does not answer.
    """
    study = read_study(name, work)
    read_declared(study.folder)
    _openings(study).check_may_open(study.inputs.split.hash, reason, patient_marks(study.test))


def check_may_open(study: OpenStudy, reason: str | None) -> None:
    """Raise RlvoError if a study's hold-out was opened before and no reason is given, or if the log was altered."""
    split = study.inputs.split
    _openings(study).check_may_open(split.hash, reason, study.inputs.marks(split.test))


def _openings(study: ReadStudy) -> Openings:
    """The log, compared with what MLflow keeps of it at the runs of all the work folder's studies."""
    tracking = tracking_of(study.work, study.config)
    return Openings(study.work.path, read_seals(started_studies(study.work.studies), tracking))


def _log(study: OpenStudy, specs: Mapping[str, EnsembleSpec], holdout: HoldOut) -> Evaluation:
    config, evaluated, group = study.config, evaluation_of(study, specs, holdout), study.groups.holdout
    figures = {group: _metrics(holdout.ensembles[STUDY_ENSEMBLE], holdout)}
    drawn = ensemble_figures(study, study.ended_trials(), evaluated)
    study.log_ensemble(specs[STUDY_ENSEMBLE], figures, evaluated.pictures, drawn)
    for name, found in holdout.baselines.items():
        study.log_figures("baseline", name, name, _metrics(found, holdout), datasets=[group])
    tags = {"rlvo.study": config.name, "rlvo.ensemble": content_hash(specs[STUDY_ENSEMBLE])}
    name = config.mlflow.registered_model
    if (version := registered_version(study.tracking, name, tags)) is not None:
        title = f"hold-out of {config.name}, opening {holdout.opening}"
        lines = card_lines(measure_answers(holdout.own_answers, study.inputs.label))
        if holdout.seen_before:
            lines.append(f"{holdout.seen_before} of {len(holdout.own_answers)} patients had been opened before")
        add_to_description(study.tracking, name, version, title, lines)
        study.log_model(specs[STUDY_ENSEMBLE], version, figures)
    return evaluated


def _metrics(found: Performance, holdout: HoldOut) -> dict[str, float]:
    """`test/<metric>` for MLflow, and beside them which opening it was, and how many patients had been seen before."""
    values = asdict(found)
    low, high = values.pop("interval")
    del values["interval_method"]
    values |= {"auc_low": low, "auc_high": high}
    values |= {"opening": float(holdout.opening), "seen_before": float(holdout.seen_before)}
    return {f"test/{name}": value for name, value in values.items()}
