"""An ensemble's run, below the run of the study whose trials it combines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlvo.config.study import StudyConfig
from rlvo.tracking.mirror import open_study_run
from rlvo.tracking.runs import RunTree


def log_ensemble_run(
    study: StudyConfig,
    folder: Path,
    tracking_uri: str,
    artifacts: Path,
    *,
    key: str,
    name: str,
    params: Mapping[str, object],
    metrics: Mapping[str, float],
    files: Sequence[Path] = (),
) -> str:
    """Make, or add to, the run of an ensemble.

    Args:
        study: the study's configuration.
        folder: the study folder.
        tracking_uri: where MLflow is.
        artifacts: artifact folder, where MLflow is a database file.
        key: identifies the ensemble within its study, e.g. a hash of its specification.
        name: the run's name.
        params: once set, they stay.
        metrics: figures of the whole ensemble; a changed one is logged again.
        files: artifacts. They must name patients by pseudonym only and hold no paths.

    Returns:
        The run id.

    Raises:
        MachineError: MLflow does not answer.
    """
    tree = RunTree(tracking_uri, study.name, artifacts)
    parent = open_study_run(tree, study, folder)
    run = tree.open(f"{parent.tags['rlvo.identity']}/{key}", "ensemble", name, parent=parent, params=params)
    tree.log_summary(run, metrics)
    for file in files:
        tree.client.log_artifact(run.id, str(file))
    tree.set_status(run, "FINISHED")
    return run.id
