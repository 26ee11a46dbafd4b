"""What is added to a study's run after its search: ensembles, baselines, and seals of the log of openings.

A seal is the hash of the last line of the log in which the work folder counts how often hold-outs were opened.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from rlvo.config.study import StudyConfig
from rlvo.mlflow_client import Tracking
from rlvo.study.folder import StudyFolder, read_config, study_identity
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
) -> str:
    """Create, or add to, the run of an ensemble or a baseline below its study's, and return its id.

    Args:
        key: identifies the run within its study, e.g. a hash of the ensemble's specification.
        params: once set, they stay.
        metrics: of the whole run; a changed one is logged again.
        files: artifacts. They must name patients by pseudonym only and hold no paths.

    Raises:
        MachineError: MLflow does not answer.
    """
    tree = RunTree(tracking, config.name)
    parent = open_study_run(tree, config, study)
    run = f"{parent}/{key}"
    tree.open(run, kind, name, params, parent=parent)
    try:
        tree.log_summary(run, metrics)
        for file in files:
            tree.write_artifact(run, file.name, file)
    except KeyboardInterrupt:
        tree.set_status(run, "KILLED")
        raise
    tree.set_status(run, "FINISHED")
    return tree.runs[run].id


def write_seal(config: StudyConfig, study: StudyFolder, tracking: Tracking, *, seal: str, openings: int) -> None:
    """Keep a seal as a tag of the study's run. Raises MachineError if MLflow does not answer."""
    tree = RunTree(tracking, config.name)
    tree.set_tags(open_study_run(tree, config, study), {SEAL: seal, OPENINGS: str(openings)})


def read_seals(studies: Iterable[StudyFolder], tracking: Tracking) -> list[str]:
    """The seals that the runs of these studies keep. Raises MachineError if MLflow does not answer."""
    seals = []
    for study in studies:
        config = read_config(study)
        run = RunTree(tracking, config.name).runs.get(study_identity(study, config))
        seals += [run.tags[SEAL]] if run is not None and SEAL in run.tags else []
    return seals
