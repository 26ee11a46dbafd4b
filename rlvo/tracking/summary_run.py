"""The run of an ensemble or a clinical baseline, below the run of its study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from rlvo.config.study import StudyConfig
from rlvo.tracking.mirror import open_study_run
from rlvo.tracking.runs import RunTree


def log_summary_run(
    study: StudyConfig,
    folder: Path,
    tracking_uri: str,
    artifacts: Path,
    *,
    kind: Literal["ensemble", "baseline"],
    key: str,
    name: str,
    params: Mapping[str, object],
    metrics: Mapping[str, float],
    files: Sequence[Path] = (),
) -> str:
    """Make, or add to, a run that is known by its figures, not by epochs.

    Args:
        study: the study's configuration.
        folder: the study folder.
        tracking_uri: where MLflow is.
        artifacts: artifact folder, where MLflow is a database file.
        key: identifies the run within its study, e.g. a hash of the ensemble's specification.
        name: the run's name.
        params: once set, they stay.
        metrics: figures; a changed one is logged again.
        files: artifacts. They must name patients by pseudonym only and hold no paths.

    Returns:
        The run id.

    Raises:
        MachineError: MLflow does not answer.
    """
    tree = RunTree(tracking_uri, study.name, artifacts)
    parent = open_study_run(tree, study, folder)
    run = tree.open(f"{parent.tags['rlvo.identity']}/{key}", kind, name, parent=parent, params=params)
    tree.log_summary(run, metrics)
    for file in files:
        tree.client.log_artifact(run.id, str(file))
    tree.set_status(run, "FINISHED")
    return run.id
