"""What is added to a study's run after its search: ensembles, baselines, and seals of the log of openings.

A seal is the hash of the last line of the log in which the work folder counts how often hold-outs were opened.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from mlflow.exceptions import MlflowException

from rlvo.config.study import StudyConfig
from rlvo.errors import MachineError
from rlvo.mlflow_client import Tracking, one_line
from rlvo.study.folder import StudyFolder, read_config, study_identity
from rlvo.tracking.datasets import PatientGroup, StudyGroups
from rlvo.tracking.notes import baseline_note, ensemble_note
from rlvo.tracking.runs import RunTree
from rlvo.tracking.study_items import open_study_run

SEAL, OPENINGS = "rlvo.openings.seal", "rlvo.openings"
"""Tags of a study's run: the seal, and how often the study's hold-out had been opened by then."""


def log_summary_run(
    config: StudyConfig,
    study: StudyFolder,
    tracking: Tracking,
    *,
    kind: Literal["ensemble", "baseline"],
    key: str,
    name: str,
    params: Mapping[str, object],
    metrics: Mapping[str, float],
    files: Sequence[Path] = (),
    texts: Mapping[str, str] = {},
    datasets: Sequence[PatientGroup] = (),
) -> str:
    """Create, or add to, the run of an ensemble or a baseline below its study's, and return its id.

    Args:
        key: identifies the run within its study, e.g. a hash of the ensemble's specification.
        params: once set, they stay.
        metrics: of the whole run; a changed one is logged again.
        datasets: groups of patients that the figures are of.
        files: artifacts. They must name patients by pseudonym only and hold no paths.
        texts: further ones, by their path among the artifacts.

    Raises:
        MachineError: MLflow does not answer.
    """
    tree = RunTree(tracking, config.name)
    parent = open_study_run(tree, config, study, StudyGroups.of(study))
    run = f"{parent}/{key}"
    note = ensemble_note(config) if kind == "ensemble" else baseline_note(name, config)
    tree.open(run, kind, name, params, parent=parent, note=note, datasets=datasets)
    try:
        tree.log_summary(run, metrics)
        for file in files:
            tree.write_artifact(run, file.name, file)
        for path, text in texts.items():
            tree.write_artifact(run, path, text)
    except KeyboardInterrupt:
        tree.set_status(run, "KILLED")
        raise
    tree.set_status(run, "FINISHED")
    return tree.runs[run].id


def attach_text(
    config: StudyConfig, study: StudyFolder, tracking: Tracking, *, key: str, name: str, text: str
) -> str | None:
    """Add a text to the artifacts of an ensemble's run, or replace it; return the run's id, None if there is no run.

    Args:
        key: that of the ensemble's run (`log_summary_run`).

    Raises:
        MachineError: MLflow does not answer, or refuses.
    """
    if (file := tracking.database_file) is not None and not file.is_file():  # MLflow would create one
        return None
    tree, run = RunTree(tracking, config.name), f"{study_identity(study, config)}/{key}"
    if run not in tree.runs:
        return None
    try:
        tree.write_artifact(run, name, text)
    except (MlflowException, OSError) as error:
        raise MachineError(f"MLflow does not take {name} ({one_line(error)})", where=config.name) from None
    return tree.runs[run].id


def log_model_metrics(
    config: StudyConfig,
    study: StudyFolder,
    tracking: Tracking,
    *,
    key: str,
    model: str,
    figures: Mapping[PatientGroup, Mapping[str, float]],
) -> None:
    """Write figures at the logged model of an ensemble, each group's apart, so that MLflow can rank models by them.

    Args:
        key: that of the ensemble's run (`log_summary_run`), which has the groups among its datasets.
        model: id of the logged model.
        figures: metrics by the group of patients that they are of.

    Raises:
        MachineError: MLflow does not answer.
    """
    tree = RunTree(tracking, config.name)
    run = f"{study_identity(study, config)}/{key}"
    tree.describe_model(run, model)
    for group, metrics in figures.items():
        tree.log_model_metrics(run, model, metrics, group)


def write_seal(config: StudyConfig, study: StudyFolder, tracking: Tracking, *, seal: str, openings: int) -> None:
    """Keep a seal as a tag of the study's run. Raises MachineError if MLflow does not answer."""
    tree = RunTree(tracking, config.name)
    run = open_study_run(tree, config, study, StudyGroups.of(study))
    tree.set_tags(run, {SEAL: seal, OPENINGS: str(openings)})


def read_seals(studies: Iterable[StudyFolder], tracking: Tracking) -> list[str]:
    """The seals that the runs of these studies keep. Raises MachineError if MLflow does not answer."""
    seals = []
    for study in studies:
        config = read_config(study)
        run = RunTree(tracking, config.name).runs.get(study_identity(study, config))
        seals += [run.tags[SEAL]] if run is not None and SEAL in run.tags else []
    return seals
