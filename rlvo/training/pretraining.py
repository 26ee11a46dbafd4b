"""Self-supervised pretraining of an image network on volumes without outcome (`training.masked`), resumable.

Knows no Ray and no MLflow. On CPU with the same number of threads, the same seed gives the same weights, even if it was
interrupted in between.
"""

import hashlib
import io
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from rlvo.config.grid import Grid
from rlvo.config.model import Configuration
from rlvo.config.sections import ResourcesConfig
from rlvo.config.training import TrainingConfig
from rlvo.errors import RlvoError
from rlvo.files import atomic_write, file_sha256, private, storage_errors
from rlvo.models.pretrained import seen_metadata
from rlvo.training.augmentation import SIDES, Changes, flip_and_shift, jitter
from rlvo.training.checkpoint import Progress, Saver, load_last, retry_from_last
from rlvo.training.dataset import Patients, Volumes, channel_statistics
from rlvo.training.epoch import batches, build_optimizer, build_schedule, parts
from rlvo.training.execution import Execution
from rlvo.training.masked import PLACES, MaskedTask, draw_places
from rlvo.training.member import full_precision, read_ahead
from rlvo.training.records import BEST_WEIGHTS, EpochMetrics, damaged, write_epochs
from rlvo.training.shortage import (
    OutOfMemoryError,
    after_retries,
    free_memory,
    out_of_memory_errors,
    read_retries,
)

EXAMPLE = "example.npz"
"""In the folder: one slice of a volume that was held back, as `draw_pretraining` shows it. It is a patient's."""
PREFIX = "backbone.features."
"""Of the backbone's tensors among those of a classifier."""
Report = Callable[[int], None]
"""Called with the number of epochs that have ended."""


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Volumes without outcome."""

    training: tuple[Path, ...]
    """Each patient's folder in the store."""
    held_back: tuple[Path, ...]
    """Of those whose volumes only measure how good it is."""
    brain_mask: np.ndarray
    """[X, Y, Z] bool: whose intensities give the mean and SD for standardisation."""
    head: np.ndarray
    """[X, Y, Z] bool: where hidden voxels count."""
    grid: Grid


@dataclass(frozen=True)
class Pretraining:
    """What is pretrained, and how."""

    key: str
    """Identifies it by its content."""
    configuration: Configuration
    """Model spec and settings of training. Fusion, and what only labels need, play no part."""
    seed: int
    resources: ResourcesConfig


def pretrain(
    job: Pretraining,
    data: Unlabelled,
    folder: Path,
    *,
    device: str = "auto",
    until: int | None = None,
    report: Report | None = None,
) -> list[EpochMetrics]:
    """Pretrain in `folder`, or continue from the last checkpoint there; what has ended is only read.

    `train/loss` and `val/loss` are squared errors at hidden voxels inside the head, divided by those of telling the
    mean; `val/loss` is of the volumes held back, always with the same blocks. The epoch with the lowest is kept.

    Args:
        device: a torch device, or `auto` (a GPU if there is one).
        until: an epoch to stop after, if it is not the last; it can be continued later.
        report: called after each epoch; an exception it raises interrupts the training, which can be continued.

    Returns:
        The metrics of every epoch.

    Raises:
        RlvoError: the loss is not finite any more, or `folder` holds damaged files.
        PatientError: volumes are missing or damaged.
        MachineError: there is not enough disk space, or memory (OutOfMemoryError), even for half the patients at once
            and half of these.
    """
    torch.set_num_threads(job.resources.cpus)
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    resources, settings = job.resources, job.configuration.training
    how = Execution(chosen, settings, resources.activation_checkpointing, resources.compile)
    with storage_errors(folder), torch.random.fork_rng(), how.libraries():
        while True:
            try:
                with out_of_memory_errors():
                    return _train(job, data, folder, how, until or settings.epochs, report)
            except OutOfMemoryError:
                if not retry_from_last(folder, settings):
                    raise
            free_memory()


def _train(
    job: Pretraining, data: Unlabelled, folder: Path, how: Execution, last: int, report: Report | None
) -> list[EpochMetrics]:
    model, settings = job.configuration.model, after_retries(job.configuration.training, read_retries(folder))
    tested_at_once = job.configuration.training.at_once  # whatever fits in training: it decides what is hidden
    training, held_back = (Volumes(_nameless(each), model.channels) for each in (data.training, data.held_back))
    head = torch.from_numpy(data.head).to(torch.float16)[None, None]
    checkpoint = load_last(folder)
    progress = Progress(job.key) if checkpoint is None else checkpoint.progress
    _seed(job, "weights")
    task = MaskedTask(model, data.grid)
    classifier, decoder = task.classifier, task.decoder
    if checkpoint is None:
        classifier.standardise_with(*channel_statistics(training, data.brain_mask))
    else:
        classifier.load_state_dict(checkpoint.weights)
        decoder.load_state_dict(checkpoint.heads)
        write_epochs(folder, progress.epochs)  # without those that are trained again
    task.means = _means(task, training, head)
    how.prepare(classifier)
    task.to(how.device)
    optimizer = build_optimizer(nn.ModuleList([classifier.backbone, decoder]), settings)
    schedule = build_schedule(optimizer, settings, len(training))
    if checkpoint is not None:
        optimizer.load_state_dict(checkpoint.optimizer)
        schedule.load_state_dict(checkpoint.schedule)
    saver, computed = Saver(folder, progress, classifier, optimizer, schedule, heads=decoder), how.describe()
    while len(progress.epochs) < last:
        started, epoch, lr = time.monotonic(), len(progress.epochs) + 1, optimizer.param_groups[0]["lr"]
        _seed(job, epoch)
        trained = _train_epoch(task, training, head, settings, optimizer, schedule, how, data.grid)
        _seed(job, "held back")
        tested = _ratio(task, held_back, head, tested_at_once)
        training.check_unchanged()
        held_back.check_unchanged()
        if wrong := [loss for loss in (trained, tested) if not math.isfinite(loss)]:
            fix = "Set a smaller training.learning_rate, or training.clip_norm"
            raise RlvoError(f"the loss became {wrong[0]} in epoch {epoch}", where="pretraining", fix=fix)
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(tested)
        metrics = {"train/loss": trained, "val/loss": tested, "lr": lr}
        progress.add(metrics, time.monotonic() - started, "loss", computed)
        saver.after_epoch(at_once=epoch == last)
        write_epochs(folder, progress.epochs, durable=False)
        if report is not None:
            try:
                report(epoch)
            except BaseException:  # whatever interrupts; it is raised again
                saver.save()
                raise
    if len(progress.epochs) == settings.epochs and not (folder / EXAMPLE).exists():
        _restore_best(task, folder, progress)
        _seed(job, "held back")
        _write_example(task, held_back, head, folder / EXAMPLE)
    return progress.epochs


def encoder_file(folder: Path, sha256: str | None, scans: Sequence[str]) -> bytes:
    """The backbone's tensors of the kept epoch, as the file that `model.pretrained` names (safetensors).

    Args:
        sha256: of the kept weights.
        scans: what the scans are recognised by that the network has seen.
    """
    kept = _kept(folder, sha256)
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in kept.items() if name.startswith(PREFIX)}
    return safetensors.torch.save(weights, metadata=seen_metadata(scans))


def kept_sha256(folder: Path) -> str | None:
    """SHA-256 of the kept weights, as the last checkpoint names it; None if no epoch has ended."""
    checkpoint = load_last(folder)
    return None if checkpoint is None else checkpoint.progress.best_sha256


def _kept(folder: Path, sha256: str | None) -> dict[str, Tensor]:
    if file_sha256(folder / BEST_WEIGHTS) != sha256:
        raise damaged(folder / BEST_WEIGHTS)
    return safetensors.torch.load_file(folder / BEST_WEIGHTS)


def _restore_best(task: MaskedTask, folder: Path, progress: Progress) -> None:
    task.classifier.load_state_dict(_kept(folder, progress.best_sha256))


def _nameless(volumes: Sequence[Path]) -> Patients:
    """Patients of whom nothing but volumes is known."""
    ids = tuple(f"number {number}" for number in range(1, len(volumes) + 1))
    return Patients(ids, tuple(volumes), np.zeros((len(ids), 0), np.float32), np.full(len(ids), np.nan))


def _seed(job: Pretraining, part: int | str) -> None:
    digest = hashlib.sha256(f"{job.seed}/{job.key}/{part}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _means(task: MaskedTask, volumes: Volumes, head: Tensor) -> Tensor:
    """The mean of each image inside the head, standardised, over all volumes: `MaskedTask.means`."""
    inside = head[0, 0].flatten().bool()
    total = torch.zeros(len(volumes.channels), dtype=torch.float64)
    for i in range(len(volumes)):
        seen = task.classifier.standardise(volumes[i : i + 1])[0].flatten(1)
        total += seen[:, inside].double().mean(dim=1)
    return (total / len(volumes)).float()[[target % len(total) for target in task.targets]]


def _train_epoch(
    task: MaskedTask,
    volumes: Volumes,
    head: Tensor,
    settings: TrainingConfig,
    optimizer: torch.optim.Optimizer,
    schedule: Any,
    how: Execution,
    grid: Grid,
) -> float:
    """A pass over all volumes in random order; the errors' ratio over the epoch, or the first that is not finite."""
    steps = [parts(batch, settings.at_once) for batch in batches(torch.randperm(len(volumes)), settings.batch_size)]
    sides, cropped = [PLACES.index(side) for side in SIDES], grid if task.classifier.symmetry.crops else None
    classifier, sums = task.classifier, list[Tensor]()
    task.train()
    with closing(read_ahead(volumes, [part for step in steps for part in step], how.device)) as reader:
        for step in steps:
            sizes = [len(part) for part in step]
            changes = Changes.draw(settings.augmentation, sum(sizes), task.images, cropped).split(sizes)
            optimizer.zero_grad()
            for volume, change in zip(islice(reader, len(step)), changes, strict=True):
                stacked = torch.cat([volume, head.to(volume).expand(len(volume), -1, -1, -1, -1)], dim=1)
                moved, places = flip_and_shift(stacked, draw_places(len(volume)), change, sides)
                volume, within = moved[:, :-1], moved[:, -1:]
                if change.intensities is not None:
                    volume = jitter(volume.float(), classifier.channel_mean, classifier.channel_std, change.intensities)
                moves = None if change.moves is None else change.moves.to(how.device)
                with torch.autocast(how.device.type, torch.bfloat16, enabled=how.in_bfloat16):
                    found = task.sums(volume, within, places.to(how.device), moves)
                loss = found[0] / found[1].clamp_min(1e-6) * (len(volume) / sum(sizes))
                loss.backward()  # type: ignore[no-untyped-call]
                sums.append(found.detach())
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(task.parameters(), settings.clip_norm)
            optimizer.step()
            if isinstance(schedule, OneCycleLR):
                schedule.step()
    return _quotient(sums)


def _ratio(task: MaskedTask, volumes: Volumes, head: Tensor, at_once: int) -> float:
    """The errors' ratio over volumes that are not trained on, in fp32 and as they are."""
    groups = [slice(start, start + at_once) for start in range(0, len(volumes), at_once)]
    device = task.means.device
    task.eval()
    with torch.inference_mode(), full_precision(), closing(read_ahead(volumes, groups, device)) as reader:
        return _quotient(
            [
                task.sums(
                    volume, head.to(volume).expand(len(volume), -1, -1, -1, -1), draw_places(len(volume)).to(device)
                )
                for volume in reader
            ]
        )


def _quotient(sums: Sequence[Tensor]) -> float:
    told, mean = torch.stack(list(sums)).double().sum(dim=0).tolist()
    return told / mean if mean > 0 else math.nan


def _write_example(task: MaskedTask, volumes: Volumes, head: Tensor, path: Path) -> None:
    """The middle axial slice of the first volume: original, told, and 1 where a hidden voxel counts: [T, x, y]."""
    device = task.means.device
    volume = volumes[:1].to(device)
    task.eval()
    with torch.inference_mode(), full_precision():
        told = task.tell(volume, head.to(volume), draw_places(1).to(device))
    original, reconstructed, counted = (each[0, ..., each.shape[-1] // 2].float().cpu().numpy() for each in told)
    content = io.BytesIO()
    np.savez(content, original=original, reconstructed=reconstructed, hidden=counted)
    atomic_write(path, content.getvalue())
    private(path)
