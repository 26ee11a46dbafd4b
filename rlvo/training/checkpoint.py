"""A trial's checkpoints: the last epoch, from which it continues, and the best one, which becomes the member.

A checkpoint is a folder of `model.safetensors` (weights), `state.pt` (everything else needed to continue) and
`manifest.json` (their SHA-256). It is written completely under another name and then moved into place. The checkpoint
before it, and the best weights that this one refers to, are kept until the trial ends.
"""

import hashlib
import io
import json
import logging
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from rlvo.config.model import Configuration
from rlvo.files import atomic_write, file_sha256
from rlvo.training.records import (
    BEST_WEIGHTS,
    EPOCHS,
    PREDICTIONS,
    CompletionRecord,
    EpochMetrics,
    Status,
    TrialIdentity,
    damaged,
    read_epochs,
    write_epochs,
    write_record,
)

WEIGHTS, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"
BEST_BEFORE = "best/previous.safetensors"
"""The best weights before the last epoch, if the last epoch is the best."""
UNFINISHED = "new-"

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
    seconds: float = 0.0

    @property
    def best(self) -> EpochMetrics:
        """The best epoch's metrics; empty if no epoch has ended."""
        return {} if self.best_epoch is None else self.epochs[self.best_epoch - 1]

    def add(self, metrics: EpochMetrics, seconds: float) -> None:
        """Add an epoch that has ended; the best is the first with the lowest `val/loss`."""
        if self.best_epoch is None or metrics["val/loss"] < self.best["val/loss"]:
            self.best_epoch = len(self.epochs) + 1
        self.epochs.append(metrics)
        self.seconds += seconds


@dataclass(frozen=True)
class Checkpoint:
    """The state that a trial continues from."""

    progress: Progress
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]


def save_epoch(
    folder: Path, progress: Progress, weights: dict[str, Tensor], optimizer: dict[str, Any], schedule: dict[str, Any]
) -> None:
    """Save the epoch that has just ended (the last of `progress`), and its weights as the best ones if they are."""
    model = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in weights.items()})
    is_best = progress.best_epoch == len(progress.epochs)
    if is_best:
        progress.best_sha256 = hashlib.sha256(model).hexdigest()
    state = io.BytesIO()
    torch.save({"progress": asdict(progress), "optimizer": optimizer, "schedule": schedule}, state)

    last, previous = folder / "last", folder / "previous"
    folder.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder, prefix=UNFINISHED))  # a process about to die may be saving this trial too
    files = {WEIGHTS: model, STATE: state.getvalue()}
    files[MANIFEST] = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}).encode()
    try:
        for name, data in files.items():
            atomic_write(new / name, data)
        if last.exists():
            shutil.rmtree(previous, ignore_errors=True)
            last.rename(previous)
        new.rename(last)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # it exists only if the disk is full
    if is_best:
        best = folder / BEST_WEIGHTS
        if best.exists():
            best.replace(folder / BEST_BEFORE)
        atomic_write(best, model)


def load_last(folder: Path) -> Checkpoint | None:
    """The newest sound checkpoint; None if no epoch of the trial has ended.

    A damaged last checkpoint is set aside (`damaged`) and the one before it is used: training then repeats one epoch.
    Raises RlvoError if epochs have ended but no sound checkpoint is left.
    """
    for leftover in folder.glob(f"{UNFINISHED}*"):  # the process died in the middle of a save
        shutil.rmtree(leftover, ignore_errors=True)
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
    )
    write_record(folder, record)
    shutil.rmtree(folder / "previous", ignore_errors=True)
    (folder / BEST_BEFORE).unlink(missing_ok=True)
    return record


def _load(path: Path) -> Checkpoint | None:
    """The checkpoint in the folder `path`; None if a file is missing or damaged."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        if any(file_sha256(path / name) != manifest.get(name) for name in (WEIGHTS, STATE)):
            return None
    except (FileNotFoundError, ValueError):
        return None
    state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    weights = safetensors.torch.load_file(path / WEIGHTS)
    return Checkpoint(Progress(**state["progress"]), weights, state["optimizer"], state["schedule"])


def _restore_best(folder: Path, progress: Progress) -> bool:
    """Put the best weights that `progress` refers to in their place; False if they are lost."""
    best = folder / BEST_WEIGHTS
    for path in (best, folder / "last" / WEIGHTS, folder / "previous" / WEIGHTS, folder / BEST_BEFORE):
        if path.is_file() and file_sha256(path) == progress.best_sha256:
            if path != best:
                atomic_write(best, path.read_bytes())
            return True
    return False
