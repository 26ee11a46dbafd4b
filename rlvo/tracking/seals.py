"""Seals of the log of hold-out openings: its last line's hash, as a tag of the run of the study that opened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rlvo.config.study import StudyConfig
from rlvo.tracking.connection import connect
from rlvo.tracking.mirror import open_study_run
from rlvo.tracking.runs import IDENTITY, RunTree
from rlvo.tracking.trials import study_identity

SEAL, OPENINGS = "rlvo.openings.seal", "rlvo.openings"
"""The hash, and how often the study's hold-out had been opened then."""


def write_seal(
    study: StudyConfig, folder: Path, tracking_uri: str, artifacts: Path, *, seal: str, openings: int
) -> None:
    """Keep the seal at the run of the study in `folder`. Raises MachineError where MLflow does not answer."""
    tree = RunTree(tracking_uri, study.name, artifacts)
    tree.set_tags(open_study_run(tree, study, folder), {SEAL: seal, OPENINGS: str(openings)})


def read_seals(studies: Iterable[tuple[StudyConfig, Path]], tracking_uri: str, artifacts: Path) -> list[str]:
    """The seals that the runs of `studies` (each with its folder) keep. Raises as `write_seal`."""
    seals = []
    for study, folder in studies:
        client, experiment = connect(tracking_uri, study.name, artifacts)
        runs = client.search_runs([experiment], f"tags.`{IDENTITY}` = '{study_identity(study, folder)}'")
        seals += [run.data.tags[SEAL] for run in runs if SEAL in run.data.tags]
    return seals
