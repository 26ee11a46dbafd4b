"""What runs in a Ray worker: one configuration on one fold."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.errors import DiskFullError, MachineError, PatientError, RlvoError
from rlvo.files import atomic_write, told_when_full
from rlvo.imaging.cluster import NotSharedError, not_shared
from rlvo.imaging.store import local_copy
from rlvo.search.inputs import StudyInputs
from rlvo.search.results import trial_folder
from rlvo.search.status import NOTE
from rlvo.training.records import CONFIGURATION, EpochMetrics

if TYPE_CHECKING:
    from rlvo.training.dataset import FoldData, Patients

LOCAL_STORE = "RLVO_LOCAL_STORE"
STOPS = "stops"
"""In a trial's last result: the error that every other trial would meet as well."""


class _RungReachedError(Exception):
    """The trial has come as far as it was asked to; its checkpoint is on disk."""


def train_fold(trial: dict[str, Any], *, study: StudyConfig, inputs: StudyInputs, folder: Path) -> dict[str, Any]:
    """Train one trial and report once an epoch; goes on where an earlier start of it was stopped.

    Args:
        trial: what `FoldSearcher.suggest` returned; with `until` below its last epoch it stops there and can go on.
        study: the study's configuration.
        inputs: the study's patients.
        folder: the study folder, reachable from every node.

    Returns:
        `reason`: why the trial failed, where it left no record; `stops`: the error that ends the whole search.
    """
    from rlvo.training.fit import fit  # torch and MONAI: only in the workers

    configuration, fold = Configuration.model_validate_json(trial["configuration"]), trial["fold"]
    resources, place = study.resources, trial_folder(folder, configuration, fold)

    def report(epoch: int, metrics: EpochMetrics) -> None:
        tune.report({"epoch": epoch, **metrics})
        if trial["until"] <= epoch < configuration.training.epochs:
            raise _RungReachedError

    try:
        if not (folder / NOTE).exists():  # the driver wrote it; this node may have joined after the start's check
            raise not_shared(folder)
        with told_when_full(place):
            place.mkdir(parents=True, exist_ok=True)
            atomic_write(place.parent / CONFIGURATION, configuration.model_dump_json(indent=1))  # for whoever watches
        fit(
            configuration,
            _on_this_node(inputs.fold_data(fold)),
            place,
            inputs.identity(configuration, fold),
            seed=study.seed,
            device="auto" if resources.gpus else "cpu",
            threads=resources.cpus,
            report=report,
        )
    except _RungReachedError:
        pass
    except (PatientError, DiskFullError, NotSharedError) as error:
        return {STOPS: error}
    except RlvoError as error:
        return {"reason": str(error)}
    return {}


def _on_this_node(data: FoldData) -> FoldData:
    """The data with its volumes copied to the node's own disk, where `RLVO_LOCAL_STORE` names a folder there."""
    if not (local := os.environ.get(LOCAL_STORE)):
        return data

    def copied(patients: Patients) -> Patients:
        volumes = (_copy(*patient, Path(local)) for patient in zip(patients.ids, patients.volumes, strict=True))
        return replace(patients, volumes=tuple(volumes))

    return replace(data, training=copied(data.training), validation=copied(data.validation))


def _copy(patient: str, folder: Path, local: Path) -> Path:
    try:
        return local_copy(folder, local)
    except MachineError as error:
        raise PatientError(error.what, where=f"patient {patient}", fix=error.fix) from None
