"""A trial's checkpoints: the last epoch, from which it goes on, and the best one, which becomes the member.

A checkpoint is a folder of `model.safetensors` (weights), `state.pt` (all else needed to go on) and `manifest.json`
(their SHA-256). It is made whole under another name and then moved into place; the one before it, and the best weights
that it means, are kept until the trial ends.
"""

from __future__ import annotations

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

from rlvo.files import atomic_write, file_sha256
from rlvo.training.records import BEST_WEIGHTS, EpochMetrics, damaged, read_epochs

WEIGHTS, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"
BEST_BEFORE = "best/previous.safetensors"
"""The best weights before the last epoch, where that was the best."""
UNFINISHED = "new-"

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a trial has come. Random states are not part of it: each epoch is seeded by its number."""

    trial: str
    """The identity's key."""
    epochs: list[EpochMetrics] = field(default_factory=list)
    best_epoch: int | None = None
    best_sha256: str | None = None
    """Of the best epoch's weights."""
    seconds: float = 0.0

    @property
    def best(self) -> EpochMetrics:
        """The best epoch's metrics; empty where no epoch has ended."""
        return {} if self.best_epoch is None else self.epochs[self.best_epoch - 1]

    def add(self, metrics: EpochMetrics, seconds: float) -> None:
        """Count an epoch; the best is the first with the lowest `val/loss`."""
        if self.best_epoch is None or metrics["val/loss"] < self.best["val/loss"]:
            self.best_epoch = len(self.epochs) + 1
        self.epochs.append(metrics)
        self.seconds += seconds


@dataclass(frozen=True)
class Checkpoint:
    """What a trial goes on from."""

    progress: Progress
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]


def save_epoch(
    folder: Path, progress: Progress, weights: dict[str, Tensor], optimizer: dict[str, Any], schedule: dict[str, Any]
) -> None:
    """Store the epoch just ended (the last of `progress`) as the last checkpoint, and as the best one if it is."""
    model = safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in weights.items()})
    is_best = progress.best_epoch == len(progress.epochs)
    if is_best:
        progress.best_sha256 = hashlib.sha256(model).hexdigest()
    state = io.BytesIO()
    torch.save({"progress": asdict(progress), "optimizer": optimizer, "schedule": schedule}, state)

    last, previous = folder / "last", folder / "previous"
    folder.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=folder, prefix=UNFINISHED))  # a process about to die may save this trial as well
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
        shutil.rmtree(new, ignore_errors=True)  # there only where the disk is full
    if is_best:
        best = folder / BEST_WEIGHTS
        if best.exists():
            best.replace(folder / BEST_BEFORE)
        atomic_write(best, model)


def load_last(folder: Path) -> Checkpoint | None:
    """The newest sound checkpoint; None where the trial has not ended an epoch.

    Where the last one is damaged it is set aside (`damaged`) and the one before it serves: training then repeats one
    epoch. Raises RlvoError where epochs have ended and no sound checkpoint is left.
    """
    for left in folder.glob(f"{UNFINISHED}*"):  # by a death in the middle of a save
        shutil.rmtree(left, ignore_errors=True)
    last, previous = folder / "last", folder / "previous"
    for path in (last, previous):
        checkpoint = _load(path) if _is_sound(path) else None
        if checkpoint is None or not _restore_best(folder, checkpoint.progress):
            continue
        if path == previous and last.exists():
            logger.warning("the last checkpoint is damaged and set aside; training goes on from the one before it")
            shutil.rmtree(folder / "damaged", ignore_errors=True)
            last.rename(folder / "damaged")
        return checkpoint
    if any(path.exists() for path in (last, previous, folder / BEST_WEIGHTS)) or read_epochs(folder):
        raise damaged(last)
    return None


def drop_previous(folder: Path) -> None:
    """Remove what only a trial that goes on needs: the checkpoint before the last, and the best weights it means."""
    shutil.rmtree(folder / "previous", ignore_errors=True)
    (folder / BEST_BEFORE).unlink(missing_ok=True)


def _is_sound(path: Path) -> bool:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return all((path / name).is_file() and file_sha256(path / name) == manifest.get(name) for name in (WEIGHTS, STATE))


def _load(path: Path) -> Checkpoint:
    state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    weights = safetensors.torch.load_file(path / WEIGHTS)
    return Checkpoint(Progress(**state["progress"]), weights, state["optimizer"], state["schedule"])


def _restore_best(folder: Path, progress: Progress) -> bool:
    """Whether the best weights that `progress` means are still somewhere; puts them in their place."""
    best = folder / BEST_WEIGHTS
    for path in (best, folder / "last" / WEIGHTS, folder / "previous" / WEIGHTS, folder / BEST_BEFORE):
        if path.is_file() and file_sha256(path) == progress.best_sha256:
            if path != best:
                atomic_write(best, path.read_bytes())
            return True
    return False
