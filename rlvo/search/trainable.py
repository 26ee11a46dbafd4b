"""What runs in a Ray worker: one configuration on one fold."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.errors import MachineError, PatientError, RlvoError, StorageError
from rlvo.files import storage_errors
from rlvo.imaging.store import local_copy
from rlvo.ray_session import NotSharedError, not_shared
from rlvo.study.folder import StudyFolder, write_configuration
from rlvo.study.inputs import StudyInputs
from rlvo.training.records import EpochMetrics

if TYPE_CHECKING:
    from rlvo.training.dataset import FoldData, Patients

LOCAL_STORE = "RLVO_LOCAL_STORE"
STOPS = "stops"
"""In a trial's last result: the error that every other trial would meet as well."""


def train_fold(
    trial: dict[str, Any], *, config: StudyConfig, inputs: StudyInputs, study: StudyFolder
) -> dict[str, Any]:
    """Train one trial and report once per epoch; it continues from its last checkpoint.

    Args:
        trial: what `FoldSearcher.suggest` returned; if `until` is before its last epoch, it stops there and can resume.
        config: the study's configuration.
        inputs: the study's patients.
        study: the study's folder, which every node can reach.

    Returns:
        `reason`: why the trial failed, if it left no record; `stops`: the error that ends the whole search.
    """
    from rlvo.training.imports import import_monai

    import_monai()
    from rlvo.training.energy import EnergyMeter
    from rlvo.training.fit import fit  # torch and MONAI: only in the workers
    from rlvo.training.shortage import keep_to_share
    from rlvo.training.usage import UsageMeter

    configuration, fold = Configuration.model_validate_json(trial["configuration"]), trial["fold"]
    cpus, gpus = config.resources.cpus, config.resources.known_gpus
    folder = study.trial(trial["key"], fold)

    def report(epoch: int, metrics: EpochMetrics) -> None:
        meter.after_epoch(epoch)
        tune.report({"epoch": epoch, **metrics})

    try:
        if not study.progress.exists():  # the driver wrote it; this node may have joined after the start's check
            raise not_shared(study.path)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_configuration(folder.parent, configuration)  # for those who watch
        data = _on_this_node(inputs.fold_data(fold))
        energy = EnergyMeter(cpus, gpus)
        keep_to_share(gpus)
        meter = UsageMeter(folder, len(data.training.ids) + len(data.validation.ids), energy)
        fit(
            configuration,
            data,
            folder,
            inputs.identity(trial["key"], fold),
            seed=config.seed,
            device="auto" if gpus else "cpu",
            threads=cpus,
            activation_checkpointing=config.resources.activation_checkpointing,
            compile=config.resources.compile,
            pretrained=study.pretrained(configuration.model.pretrained.sha256),
            until=trial["until"],
            report=report,
        )
    except (PatientError, StorageError, NotSharedError) as error:
        return {STOPS: error}
    except RlvoError as error:
        return {"reason": str(error)}
    return {}


def _on_this_node(data: FoldData) -> FoldData:
    """The data, its volumes copied to the node's own disk if `RLVO_LOCAL_STORE` names a folder there."""
    if not (local := os.environ.get(LOCAL_STORE)):
        return data

    def copied(patients: Patients) -> Patients:
        volumes = []
        for patient, folder in zip(patients.ids, patients.volumes, strict=True):
            try:
                volumes.append(local_copy(folder, Path(local)))
            except MachineError as error:
                raise PatientError(error.what, where=f"patient {patient}", fix=error.fix) from None
        return replace(patients, volumes=tuple(volumes))

    return replace(data, training=copied(data.training), validation=copied(data.validation))
