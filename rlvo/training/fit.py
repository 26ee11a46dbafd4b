"""One trial: train a configuration on one fold, keep its best and last checkpoint, predict the validation patients.

Knows no Ray and no MLflow. The same seed gives the same trial on CPU with the same number of threads, also when it was
interrupted in between.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rlvo.config.model import Configuration
from rlvo.errors import MachineError, RlvoError
from rlvo.evaluation.predictions import write_predictions
from rlvo.files import file_sha256, told_when_full
from rlvo.models.backbones import check_volume
from rlvo.models.classifier import Classifier, build_classifier
from rlvo.training.checkpoint import Progress, drop_previous, load_last, save_epoch
from rlvo.training.dataset import FoldData, Volumes, channel_statistics
from rlvo.training.epoch import NonFiniteLossError, batches, positive_weight, train_epoch, validate
from rlvo.training.member import load_classifier, predict_probabilities
from rlvo.training.optimisation import build_optimizer, build_schedule
from rlvo.training.records import (
    BEST_WEIGHTS,
    EPOCHS,
    OUT_OF_MEMORY,
    PREDICTIONS,
    CompletionRecord,
    EpochMetrics,
    TrialIdentity,
    damaged,
    read_record,
    write_epochs,
    write_record,
)

Report = Callable[[int, EpochMetrics], None]
"""Called once an epoch (from 1) with its metrics, after its checkpoint is on disk."""


def fit(
    configuration: Configuration,
    data: FoldData,
    folder: Path,
    identity: TrialIdentity,
    *,
    seed: int,
    device: str = "auto",
    threads: int | None = None,
    report: Report | None = None,
) -> CompletionRecord:
    """Train, or go on training, the trial in `folder`; a trial that has ended is only read.

    `val/balanced_accuracy`, `val/f1`, `val/sensitivity` and `val/specificity` use the threshold that is best on the
    same validation patients, so they are optimistic. A loss that is not finite ends the trial as failed, with the
    reason.

    Args:
        configuration: model spec and hyperparameters.
        data: training and validation patients of the fold.
        folder: the trial's folder; see `training.records` for what it holds.
        identity: what the trial is; the random numbers depend on it and `seed` alone.
        seed: the study's seed.
        device: a torch device, or `auto` (GPU where there is one).
        threads: torch threads on the CPU; None leaves the process's setting.
        report: called once an epoch; what it raises interrupts the trial, which can go on later.

    Raises:
        RlvoError: the volumes are too small for the network, or the files in `folder` are damaged or another trial's.
        PatientError: a patient's volumes are missing or damaged.
        MachineError: there is not enough memory, or (DiskFullError) no room to write; the last checkpoint stays.
    """
    if record := read_record(folder):
        _check_same(record.identity.key, identity, folder)
        return record
    if threads is not None:
        torch.set_num_threads(threads)
    check_volume(configuration.model, data.brain_mask.shape, min(configuration.training.batch_size, len(data.training)))
    with told_when_full(folder), _told_when_out_of_memory(), torch.random.fork_rng():
        record = _run(configuration, data, folder, identity, seed, _choose(device), report)
        write_record(folder, record)
    drop_previous(folder)
    return record


def _run(
    configuration: Configuration,
    data: FoldData,
    folder: Path,
    identity: TrialIdentity,
    seed: int,
    device: torch.device,
    report: Report | None,
) -> CompletionRecord:
    model, settings = configuration.model, configuration.training
    training, validation = Volumes(data.training, model.channels), Volumes(data.validation, model.channels)
    tabular_features = data.training.tabular.shape[1]

    _seed(seed, identity, epoch=0)
    classifier = build_classifier(model, tabular_features)
    checkpoint = load_last(folder)
    if checkpoint is None:
        progress = Progress(identity.key)
        classifier.standardise_with(*channel_statistics(training, data.brain_mask))
    else:
        progress = checkpoint.progress
        _check_same(progress.trial, identity, folder)
        classifier.load_state_dict(checkpoint.weights)
    classifier.to(device)
    optimizer = build_optimizer(classifier, settings)
    schedule = build_schedule(optimizer, settings, len(batches(torch.arange(len(training)), settings.batch_size)))
    if checkpoint is not None:
        optimizer.load_state_dict(checkpoint.optimizer)
        schedule.load_state_dict(checkpoint.schedule)

    reason = None
    while len(progress.epochs) < settings.epochs:
        started, epoch, lr = time.monotonic(), len(progress.epochs) + 1, optimizer.param_groups[0]["lr"]
        _seed(seed, identity, epoch)
        try:
            loss = train_epoch(classifier, training, data, settings, optimizer, schedule)
            weight = positive_weight(data.training.labels, settings)
            validated = validate(classifier, validation, data.validation, settings.batch_size, weight)
        except NonFiniteLossError as error:
            reason = f"{error} in epoch {epoch}"
            break
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(validated["val/loss"])
        progress.add({"train/loss": loss, **validated, "lr": lr}, time.monotonic() - started)
        save_epoch(folder, progress, classifier.state_dict(), optimizer.state_dict(), schedule.state_dict())
        write_epochs(folder, progress.epochs)
        if report is not None:
            report(epoch, progress.epochs[-1])

    write_epochs(folder, progress.epochs)  # a death can fall between the last checkpoint and this file
    files = [EPOCHS]
    if reason is None:
        if file_sha256(folder / BEST_WEIGHTS) != progress.best_sha256:
            raise damaged(folder / BEST_WEIGHTS)
        best = load_classifier(folder, model, tabular_features).to(device)
        _predict_validation(best, validation, data, configuration, identity, folder)
        files += [BEST_WEIGHTS, PREDICTIONS]
    return CompletionRecord(
        identity=identity,
        configuration=configuration,
        status="finished" if reason is None else "failed",
        reason=reason,
        best_epoch=progress.best_epoch,
        epochs=len(progress.epochs),
        metrics=progress.best,
        files={name: file_sha256(folder / name) for name in files},
        seconds=progress.seconds,
    )


def _predict_validation(
    best: Classifier,
    volumes: Volumes,
    data: FoldData,
    configuration: Configuration,
    identity: TrialIdentity,
    folder: Path,
) -> None:
    patients = data.validation
    predictions = pd.DataFrame(
        {
            "patient": list(patients.ids),
            "member": f"{configuration.key}-f{identity.fold}",
            "fold": identity.fold,
            "split": "validation",
            "probability": predict_probabilities(best, volumes, patients.tabular, configuration.training.batch_size),
            "label": patients.labels.astype(int),
        }
    )
    write_predictions(predictions, folder / PREDICTIONS)


@contextmanager
def _told_when_out_of_memory() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch's allocator on the CPU raises a plain RuntimeError
        if isinstance(error, torch.OutOfMemoryError):
            raise MachineError("out of GPU memory", fix=OUT_OF_MEMORY) from None
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            raise MachineError("out of memory", fix=OUT_OF_MEMORY) from None
        raise


def _seed(seed: int, identity: TrialIdentity, epoch: int) -> None:
    """Seed torch for the weights (epoch 0) or an epoch, so that a trial that goes on draws what it would have drawn."""
    digest = hashlib.sha256(f"{seed}/{identity.key}/{epoch}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _choose(device: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def _check_same(key: str, identity: TrialIdentity, folder: Path) -> None:
    if key != identity.key:
        raise RlvoError(
            "the folder holds another trial", where=folder, fix="Give the study another name or work folder"
        )
