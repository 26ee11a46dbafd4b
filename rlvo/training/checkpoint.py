"""A trial's checkpoints: the last epoch, from which it continues, and the best one, which becomes the member.

A checkpoint is a folder of `model.safetensors` (weights), `average.safetensors` (their moving average, if one is kept),
`state.pt` (everything else needed to continue) and `manifest.json` (their SHA-256). It is written completely under
another name and then moved into place, as are the best weights that it refers to. The checkpoint before it, with its
best weights, is kept until the trial ends.
"""

import hashlib
import io
import json
import logging
import math
import pickle  # nosec B403 # for the name of an error; nothing is unpickled
import shutil
import tempfile
import time
import zipfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from rlvo.config.model import Configuration
from rlvo.config.training import CheckpointName, TrainingConfig
from rlvo.files import atomic_write, file_sha256, parse_json
from rlvo.training.average import WeightAverage
from rlvo.training.records import (
    BEST_WEIGHTS,
    EPOCHS,
    PREDICTIONS,
    CompletionRecord,
    Computation,
    EpochMetrics,
    Start,
    Status,
    TrialIdentity,
    damaged,
    is_better,
    read_epochs,
    write_epochs,
    write_record,
)
from rlvo.training.shortage import read_retries, retry
from rlvo.training.usage import note_total

WEIGHTS, AVERAGE, STATE, MANIFEST = "model.safetensors", "average.safetensors", "state.pt", "manifest.json"
BEST_BEFORE = "best/previous.safetensors"
"""The best weights of the checkpoint before the last, if they are others."""
UNFINISHED = "new-"

WORTH = 50
"""The next checkpoint is saved once training has taken this many times as long as saving the last one."""
MOST_SECONDS = 60.0
"""How much training a death may undo: this, or one epoch if that takes longer."""

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a trial has got. Random states are not part of it: each epoch is seeded by its number."""

    trial: str
    """The identity's key."""
    epochs: list[EpochMetrics] = field(default_factory=list)
    best_epoch: int | None = None
    best_sha256: str | None = None
    """SHA-256 of the best epoch's weights."""
    best_answers: list[float] | None = None
    """Probabilities of the validation patients by these weights."""
    seconds: float = 0.0
    computed: list[dict[str, Any]] = field(default_factory=list)
    """How its epochs were trained: each `Computation` that is not that of the epoch before."""
    starts: list[dict[str, Any]] = field(default_factory=list)
    """Each `Start` that has ended; in a checkpoint those before the one that trains."""

    @property
    def best(self) -> EpochMetrics:
        """The best epoch's metrics; empty if no epoch has ended."""
        return {} if self.best_epoch is None else self.epochs[self.best_epoch - 1]

    def add(
        self,
        metrics: EpochMetrics,
        seconds: float,
        by: CheckpointName = "loss",
        computed: Computation | None = None,
        answers: np.ndarray | None = None,
    ) -> None:
        """Add an epoch that has ended, how it was computed, and its answers; note whether it is the best so far."""
        if computed is not None and (how := computed.model_dump()) not in self.computed[-1:]:
            self.computed.append(how)
        if self.best_epoch is None or is_better(metrics, self.best, by):
            self.best_epoch = len(self.epochs) + 1
            self.best_answers = None if answers is None else answers.tolist()
        self.epochs.append(metrics)
        self.seconds += seconds


@dataclass(frozen=True)
class Checkpoint:
    """The state that a trial continues from."""

    progress: Progress
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    average: dict[str, Tensor] | None = None
    """The weights' moving average, over so many"""
    averaged: int = 0
    """steps."""
    heads: dict[str, Any] = field(default_factory=dict)
    """Of the auxiliary heads, which belong to training alone."""


class Stateful(Protocol):
    """A module, an optimizer or a schedule."""

    def state_dict(self) -> dict[str, Any]: ...


class Saver:
    """Saves a trial's checkpoints: after its first epoch in this process, then as often as it is worth the time.

    Args:
        folder: the trial's.
        progress: what it trains; the epochs in it are on disk.
        module, optimizer, schedule, heads: at the end of each epoch, what is to be saved; heads only to continue.
        average: the module's; if there is one, its weights are the ones that are kept.
    """

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        module: Stateful,
        optimizer: Stateful,
        schedule: Stateful,
        average: WeightAverage | None = None,
        heads: Stateful | None = None,
    ) -> None:
        self._folder, self._progress = folder, progress
        self._module, self._optimizer, self._schedule, self._heads = module, optimizer, schedule, heads
        self._average = average
        self._best: dict[str, Tensor] | None = None
        """The best weights, if they are not on disk."""
        self._saved_epochs, self._saved, self._cost = len(progress.epochs), -math.inf, 0.0

    def after_epoch(self, *, at_once: bool) -> None:
        """Save the epoch that was added to `progress` if that is worth it, or in any case if it must be `at_once`."""
        if at_once or self._is_due():
            self.save()
        elif self._progress.best_epoch == len(self._progress.epochs):
            kept = self._module if self._average is None else self._average.network
            self._best = {name: tensor.to("cpu", copy=True) for name, tensor in kept.state_dict().items()}

    def save(self) -> None:
        """Save the last epoch, unless it is saved. Raises OSError if there is no room."""
        if self._saved_epochs == len(self._progress.epochs):
            return
        started, states = time.monotonic(), (self._optimizer.state_dict(), self._schedule.state_dict())
        save_epoch(
            self._folder,
            self._progress,
            self._module.state_dict(),
            *states,
            best=self._best,
            average=self._average,
            heads=self._heads.state_dict() if self._heads else None,
        )
        self._best, self._saved_epochs, self._saved = None, len(self._progress.epochs), time.monotonic()
        self._cost = self._saved - started

    def _is_due(self) -> bool:
        unsaved = time.monotonic() - self._saved
        with_next = unsaved * (1 + 1 / (len(self._progress.epochs) - self._saved_epochs))
        return unsaved >= WORTH * self._cost or with_next > MOST_SECONDS


def save_epoch(
    folder: Path,
    progress: Progress,
    weights: dict[str, Tensor],
    optimizer: dict[str, Any],
    schedule: dict[str, Any],
    *,
    best: dict[str, Tensor] | None = None,
    average: WeightAverage | None = None,
    heads: dict[str, Any] | None = None,
) -> None:
    """Save the epoch that has just ended (the last of `progress`), and the best weights if they are new.

    Args:
        best: the best epoch's weights if they are on disk nowhere; ignored if the last epoch is the best.
        average: the average of the weights, if it is to be kept in their place.
        heads: of the auxiliary heads, if there are any.
    """
    files = {WEIGHTS: _serialised(weights)}
    if average is not None:
        files[AVERAGE] = _serialised(average.network.state_dict())
    is_best = progress.best_epoch == len(progress.epochs)
    new_best = files.get(AVERAGE, files[WEIGHTS]) if is_best else None if best is None else _serialised(best)
    if new_best is not None:
        progress.best_sha256 = hashlib.sha256(new_best).hexdigest()
    state = io.BytesIO()
    content = {"progress": asdict(progress), "optimizer": optimizer, "schedule": schedule, "heads": heads or {}}
    torch.save(content if average is None else {**content, "averaged": average.steps}, state)
    files[STATE] = state.getvalue()

    last, previous = folder / "last", folder / "previous"
    folder.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder, prefix=UNFINISHED))  # a process about to die may be saving this trial too
    files[MANIFEST] = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}).encode()
    try:
        for name, data in files.items():
            atomic_write(new / name, data)
        if new_best is not None:
            atomic_write(new / "best", new_best)
            _replace_best(folder / BEST_WEIGHTS, new / "best", folder / BEST_BEFORE)
        if last.exists():
            shutil.rmtree(previous, ignore_errors=True)
            last.rename(previous)
        new.rename(last)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # it exists only if the disk is full


def _serialised(weights: dict[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in weights.items()})


def _replace_best(best: Path, new: Path, before: Path) -> None:
    """Move the new best weights into place: until the checkpoint follows them, those `before` are the ones to use."""
    best.parent.mkdir(exist_ok=True)
    if best.exists():
        best.replace(before)
    new.replace(best)


def load_last(folder: Path) -> Checkpoint | None:
    """The newest sound checkpoint; None if no epoch of the trial has ended.

    A damaged last checkpoint is set aside (`damaged`) and the one before it is used: training then repeats what came
    after that.
    Raises RlvoError if epochs have ended but no sound checkpoint is left.
    """
    _remove_leftovers(folder)
    last, previous = folder / "last", folder / "previous"
    for path in (last, previous):
        checkpoint = _load(path)
        if checkpoint is None or not _restore_best(folder, checkpoint.progress):
            continue
        if path == previous and last.exists():
            logger.warning("the last checkpoint is damaged and set aside; training continues from the one before it")
            shutil.rmtree(folder / "damaged", ignore_errors=True)
            last.rename(folder / "damaged")
        return checkpoint
    if any(path.exists() for path in (last, previous, folder / BEST_WEIGHTS)) or read_epochs(folder):
        raise damaged(last)
    return None


def load_progress(folder: Path) -> Progress | None:
    """How far a trial's newest sound checkpoint has got; None if no epoch of it has ended.

    Of hundreds of MB only that is read, unless it is damaged. Raises RlvoError as `load_last`.
    """
    state = folder / "last" / STATE
    with suppress(FileNotFoundError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError):
        with zipfile.ZipFile(state) as archive:
            for name in archive.namelist():
                if name.endswith("/data.pkl"):
                    archive.read(name)  # compares its checksum, as torch does not
        progress = Progress(**torch.load(state, map_location="cpu", weights_only=True, mmap=True)["progress"])
        _remove_leftovers(folder)
        return progress
    checkpoint = load_last(folder)
    return None if checkpoint is None else checkpoint.progress


def retry_from_last(folder: Path, settings: TrainingConfig) -> bool:
    """Whether what ran out of memory can go on from its last checkpoint with fewer patients at once; then it will.

    Args:
        folder: that of a trial or a pretraining.
        settings: as configured.
    """
    checkpoint = load_last(folder)
    another = retry(folder, settings, len(checkpoint.progress.epochs) if checkpoint else 0)
    if another is not None:
        what = "out of memory: training goes on from epoch %d, with at most %d of a batch's %d patients at once"
        logger.warning(what, another.epoch, another.micro_batch, settings.batch_size)
    return another is not None


def _remove_leftovers(folder: Path) -> None:
    """Of a process that died in the middle of a save."""
    for leftover in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def end_trial(
    folder: Path,
    configuration: Configuration,
    identity: TrialIdentity,
    progress: Progress,
    status: Status,
    reason: str | None = None,
) -> CompletionRecord:
    """Write the record of a trial that ends after the epochs of `progress`, and remove what only training needed."""
    write_epochs(folder, progress.epochs)  # the process may have died between the last checkpoint and this file
    note_total(folder)
    files = (EPOCHS, BEST_WEIGHTS, PREDICTIONS) if status == "finished" else (EPOCHS,)
    record = CompletionRecord(
        identity=identity,
        configuration=configuration,
        status=status,
        reason=reason,
        best_epoch=progress.best_epoch,
        epochs=len(progress.epochs),
        metrics=progress.best,
        files={name: file_sha256(folder / name) for name in files},
        seconds=progress.seconds,
        retries=read_retries(folder),
        starts=tuple(map(Start.model_validate, progress.starts)),
        computed=tuple(map(Computation.model_validate, progress.computed)),
    )
    write_record(folder, record)
    shutil.rmtree(folder / "previous", ignore_errors=True)
    (folder / BEST_BEFORE).unlink(missing_ok=True)
    return record


def _load(path: Path) -> Checkpoint | None:
    """The checkpoint in the folder `path`; None if a file is missing or damaged."""
    try:
        manifest = parse_json((path / MANIFEST).read_bytes())
        if any(file_sha256(path / name) != manifest.get(name) for name in {WEIGHTS, STATE, *manifest}):
            return None
    except (FileNotFoundError, ValueError):
        return None
    state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    weights = safetensors.torch.load_file(path / WEIGHTS)
    average = safetensors.torch.load_file(path / AVERAGE) if AVERAGE in manifest else None
    progress, averaged, heads = Progress(**state["progress"]), state.get("averaged", 0), state.get("heads", {})
    return Checkpoint(progress, weights, state["optimizer"], state["schedule"], average, averaged, heads)


def _restore_best(folder: Path, progress: Progress) -> bool:
    """Put the best weights that `progress` refers to in their place; False if they are lost."""
    best = folder / BEST_WEIGHTS
    saved = [folder / place / name for place in ("last", "previous") for name in (WEIGHTS, AVERAGE)]
    for path in (best, *saved, folder / BEST_BEFORE):
        if path.is_file() and file_sha256(path) == progress.best_sha256:
            if path != best:
                atomic_write(best, path.read_bytes())
            return True
    return False
