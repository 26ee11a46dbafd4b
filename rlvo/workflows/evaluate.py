"""Opening a study's hold-out and telling MLflow what it showed."""

from dataclasses import asdict

from rlvo.config.base import content_hash
from rlvo.ensemble.build import STUDY_ENSEMBLE
from rlvo.evaluation.answers import measure_answers
from rlvo.evaluation.performance import Performance
from rlvo.progress import ShowProgress, no_progress
from rlvo.registry.card import add_to_description
from rlvo.registry.versions import registered_version
from rlvo.report.external import card_lines
from rlvo.study.folder import read_declared, read_ended_trials, started_studies
from rlvo.study.openings import Openings
from rlvo.tracking.after_search import read_seals, write_seal
from rlvo.workflows.ensemble_artifacts import ensemble_figures
from rlvo.workflows.holdout import Evaluation, HoldOut, evaluation_of, open_holdout
from rlvo.workflows.study import OpenStudy


def evaluate(study: OpenStudy, *, reason: str | None = None, progress: ShowProgress = no_progress) -> Evaluation:
    """Open a study's hold-out for its declared ensembles and the clinical baselines.

    The figures of its own ensemble and of the baselines go to their runs in MLflow, the former also to the description
    of the registered version.

    Args:
        reason: why it is opened again; needed if it was opened before.

    Raises:
        RlvoError: as `open_holdout`.
        MachineError: MLflow does not answer.
    """
    specs, config = read_declared(study.folder), study.config
    # The log is compared with what MLflow keeps of it at the runs of all the work folder's studies.
    openings = Openings(study.work.path, read_seals(started_studies(study.work.studies), study.tracking))
    with progress("hold-out patients") as advance:
        holdout = open_holdout(study, specs, openings, reason=reason, advance=advance)
    seal = openings.seal()
    assert seal is not None  # it was just opened
    write_seal(config, study.folder, study.tracking, seal=seal, openings=holdout.opening)
    evaluated = evaluation_of(study, specs, holdout)
    group = study.groups.holdout
    figures = {group: _metrics(holdout.ensembles[STUDY_ENSEMBLE], holdout)}
    drawn = ensemble_figures(study, read_ended_trials(study.folder), evaluated)
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
