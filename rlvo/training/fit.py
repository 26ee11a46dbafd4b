"""One trial: train a configuration on one fold, keep its best and last checkpoint, predict the validation patients.

Knows no Ray and no MLflow. On CPU with the same number of threads, the same seed gives the same trial, even if it was
interrupted in between; on a GPU with `training.deterministic`.
"""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rlvo.config.model import Configuration, auxiliary_targets
from rlvo.config.sections import Compile
from rlvo.errors import RlvoError, get_logger
from rlvo.evaluation.predictions import write_predictions
from rlvo.files import file_sha256, storage_errors
from rlvo.models.auxiliary import AuxiliaryHeads
from rlvo.models.classifier import Classifier
from rlvo.models.crop import check_seen
from rlvo.models.pretrained import start_from
from rlvo.training.average import WeightAverage
from rlvo.training.chance import look_back
from rlvo.training.checkpoint import Progress, Saver, end_trial, load_last, retry_from_last
from rlvo.training.dataset import FoldData, Volumes, channel_statistics
from rlvo.training.epoch import (
    NonFiniteLossError,
    build_optimizer,
    build_schedule,
    positive_weight,
    smallest_part,
    train_epoch,
    validate,
)
from rlvo.training.execution import Execution
from rlvo.training.member import load_classifier, predict_probabilities
from rlvo.training.missing import WithoutChannels
from rlvo.training.offset import clinical_logits
from rlvo.training.records import (
    BEST_WEIGHTS,
    KILLED,
    PREDICTIONS,
    CompletionRecord,
    EpochMetrics,
    TrialIdentity,
    damaged,
    member_key,
    read_record,
    write_epochs,
)
from rlvo.training.shortage import (
    OutOfMemoryError,
    after_retries,
    free_memory,
    out_of_memory_errors,
    read_retries,
)

logger = get_logger(__name__)

Report = Callable[[int, EpochMetrics], None]
"""Called after each epoch with its number (from 1) and its metrics, once these are on disk."""


def fit(
    configuration: Configuration,
    data: FoldData,
    folder: Path,
    identity: TrialIdentity,
    *,
    seed: int,
    device: str = "auto",
    threads: int | None = None,
    activation_checkpointing: bool = False,
    compile: Compile = "none",
    pretrained: Path | None = None,
    until: int | None = None,
    report: Report | None = None,
) -> CompletionRecord | None:
    """Train the trial in `folder`, or continue its training; a trial that has ended is only read.

    It continues from its last checkpoint, which after a death may be some epochs old: these are trained again.

    `val/balanced_accuracy`, `val/f1`, `val/sensitivity` and `val/specificity` use the threshold that is best on the
    same validation patients, so they are optimistic. A loss that is not finite ends the trial as failed, with the
    reason. If memory runs out, the trial goes on from its last checkpoint with half as many patients at once, at most
    twice; the record says so (`retries`). A trial that never left chance starts again as often as `training.restarts`
    allows: its epochs count on, and the record says so (`starts`).

    Args:
        configuration: model spec and hyperparameters.
        data: training and validation patients of the fold.
        folder: the trial's folder; see `training.records` for its content.
        identity: what the trial is; its random numbers depend on this and `seed` alone.
        seed: the study's seed.
        device: a torch device, or `auto` (a GPU if there is one).
        threads: torch threads on the CPU; None keeps the process's setting.
        activation_checkpointing: compute maps again instead of keeping them, which changes no result.
        compile: whether training steps run as code compiled for the network, which changes results by rounding.
        pretrained: the file of `model.pretrained`; read when training starts, not when it continues.
        until: an epoch to stop after, if it is not the last; the trial can be continued later.
        report: called after each epoch; an exception it raises interrupts the trial, which can be continued later.

    Returns:
        The record; None if the trial has not ended.

    Raises:
        RlvoError: the volumes are too small for the network, `pretrained` is missing or does not fit it, or `folder`
            holds damaged files or another trial.
        PatientError: a patient's volumes are missing or damaged, or change in the meantime.
        MachineError: there is not enough memory, also with a quarter of the patients at once (OutOfMemoryError), or
            disk space, or no writing to `folder` (StorageError); the last checkpoint is kept.
    """
    if record := read_record(folder):
        _check_same(record.identity.key, identity, folder)
        return record
    if threads is not None:
        torch.set_num_threads(threads)
    fewest = smallest_part(len(data.training), configuration.training)
    check_seen(configuration.model, data.brain_mask.shape, data.grid, fewest)
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    how = Execution(chosen, configuration.training, activation_checkpointing, compile)
    with storage_errors(folder), torch.random.fork_rng(), how.libraries():
        if (folder / KILLED).exists():
            retry_from_last(folder, configuration.training)
            (folder / KILLED).unlink()
        again: Progress | None = None
        while True:
            try:
                with out_of_memory_errors():
                    ended = _train(configuration, data, folder, identity, seed, how, pretrained, until, report, again)
                if not isinstance(ended, Progress):
                    return ended
                again = ended
            except OutOfMemoryError:
                if not retry_from_last(folder, configuration.training):
                    raise
                again = None
            free_memory()  # here, where the error no longer holds what the step had made


def _train(
    configuration: Configuration,
    data: FoldData,
    folder: Path,
    identity: TrialIdentity,
    seed: int,
    how: Execution,
    pretrained: Path | None,
    until: int | None,
    report: Report | None,
    again: Progress | None,
) -> CompletionRecord | Progress | None:
    """Train from the last checkpoint, or, after the starts of `again`, from random or pretrained weights.

    Returns:
        The record; None if the trial has not ended; its progress if it is to start again.
    """
    model, settings = configuration.model, after_retries(configuration.training, read_retries(folder))
    training, validation = Volumes(data.training, model.channels), Volumes(data.validation, model.channels)
    tabular_features = data.training.tabular.shape[1]

    def check_unchanged() -> None:
        """Before anything is kept that was computed from the volumes."""
        training.check_unchanged()
        validation.check_unchanged()

    checkpoint = load_last(folder) if again is None else None
    progress = again or (Progress(identity.key) if checkpoint is None else checkpoint.progress)
    restarts = len(progress.starts)
    _seed(seed, identity, epoch=-restarts)
    classifier = Classifier(model, tabular_features)
    if configuration.needs_clinical_logits:
        clinical = clinical_logits(data, seed)
        data = clinical.with_offset(data, centred=settings.beside_table)
        if classifier.offset is not None:
            clinical.write_to(classifier.offset)
    heads = _auxiliary_heads(configuration, data, classifier.backbone.out_channels)
    if checkpoint is None:
        if model.pretrained.use:
            if pretrained is None:
                raise ValueError("the network starts from pretrained weights, but no file is given")
            start_from(classifier.backbone, model, pretrained)
        classifier.standardise_with(*channel_statistics(training, data.brain_mask))
        classifier.symmetry.read_from(data.encoder.feature_names, data.grid)
    else:
        _check_same(progress.trial, identity, folder)
        classifier.load_state_dict(checkpoint.weights)
        if heads is not None:
            heads.load_state_dict(checkpoint.heads)
        write_epochs(folder, progress.epochs)  # without those that are trained again
    how.prepare(classifier)
    modules = nn.ModuleList([classifier] if heads is None else [classifier, heads.to(how.device)])
    optimizer = build_optimizer(modules, settings, classifier.backbone)
    schedule = build_schedule(optimizer, settings, len(training))
    average = WeightAverage(classifier, settings.ema) if settings.ema is not None else None
    if checkpoint is not None:
        optimizer.load_state_dict(checkpoint.optimizer)
        schedule.load_state_dict(checkpoint.schedule)
        if average is not None and checkpoint.average is not None:
            average.network.load_state_dict(checkpoint.average)
            average.steps = checkpoint.averaged

    weight = positive_weight(data.training.labels, settings)
    saver = Saver(folder, progress, classifier, optimizer, schedule, average, heads)
    network = classifier if average is None else average.network
    computed = how.describe()
    whole = settings.epochs * (restarts + 1)
    last = min(until, whole) if until is not None and until < settings.epochs else whole
    while len(progress.epochs) < last:
        started, epoch, lr = time.monotonic(), len(progress.epochs) + 1, optimizer.param_groups[0]["lr"]
        _seed(seed, identity, epoch)
        frozen = epoch - restarts * settings.epochs <= settings.freeze_epochs
        try:
            trained = train_epoch(
                classifier, training, data, settings, optimizer, schedule, weight, average, heads, frozen=frozen
            )
            validated, answers = validate(network, validation, data.validation, settings.at_once, weight, heads)
        except NonFiniteLossError as error:
            check_unchanged()
            return end_trial(folder, configuration, identity, progress, "failed", f"{error} in epoch {epoch}")
        check_unchanged()
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(validated["val/loss"])
        seconds = time.monotonic() - started
        progress.add({**trained, **validated, "lr": lr}, seconds, settings.checkpoint, computed, answers)
        saver.after_epoch(at_once=epoch == last)
        write_epochs(folder, progress.epochs, durable=False)
        if report is not None:
            try:
                report(epoch, progress.epochs[-1])
            except BaseException:  # whatever interrupts, Ctrl-C and the end of a Ray actor too; it is raised again
                saver.save()
                raise
    if last < settings.epochs:
        return None

    if file_sha256(folder / BEST_WEIGHTS) != progress.best_sha256:
        raise damaged(folder / BEST_WEIGHTS)
    best = load_classifier(folder / BEST_WEIGHTS, model, tabular_features).to(how.device)
    start = look_back(network, best, training, data.training, settings.at_once)
    progress.starts += [start.model_dump()] if start is not None else []
    if start is not None and not start.left_chance and restarts < settings.restarts:
        logger.warning("the trial never left chance on its training patients: it starts again with another seed")
        progress.best_epoch = None
        return progress
    mean, predictions = best.channel_mean.cpu(), []
    for absent in ((), *configuration.answers_without):
        if absent or progress.best_answers is None:  # a checkpoint that an earlier version made has none
            seen = WithoutChannels(validation, mean, absent) if absent else validation
            probability = predict_probabilities(best, seen, data.validation.tabular, settings.at_once)
        else:
            probability = np.array(progress.best_answers)
        predicted = {
            "patient": list(data.validation.ids),
            "member": member_key(configuration, identity.fold, absent),
            "fold": identity.fold,
            "split": "validation",
            "probability": probability,
            "label": data.validation.labels.astype(int),
        }
        predictions.append(pd.DataFrame(predicted))
    check_unchanged()
    write_predictions(pd.concat(predictions, ignore_index=True), folder / PREDICTIONS)
    return end_trial(folder, configuration, identity, progress, "finished")


def _auxiliary_heads(configuration: Configuration, data: FoldData, channels: int) -> AuxiliaryHeads | None:
    """Those that the configuration asks for, with random weights."""
    if not configuration.training.auxiliary:
        return None
    groups, names = data.encoder.feature_groups, data.encoder.feature_names
    targets = auxiliary_targets(data.encoder.predictors, configuration.model.side, configuration.model.crop)
    columns = {name: [i for i in groups[name] if not names[i].endswith("=missing")] for name in targets}
    return AuxiliaryHeads(channels, columns)


def _seed(seed: int, identity: TrialIdentity, epoch: int) -> None:
    """Seed torch for an epoch, or for the weights (0; −n after n restarts): a continued trial draws the same."""
    digest = hashlib.sha256(f"{seed}/{identity.key}/{epoch}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _check_same(key: str, identity: TrialIdentity, folder: Path) -> None:
    if key != identity.key:
        fix = "Give the study another name or work folder"
        raise RlvoError("the folder holds another trial", where=folder, fix=fix)
