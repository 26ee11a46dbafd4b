"""A trial's checkpoints: the last epoch, from which it goes on, and the best one, which becomes the member.

A checkpoint is a folder of `model.safetensors` (weights), `state.pt` (all else needed to go on) and `manifest.json`
(their SHA-256). It is made whole under another name and then moved into place; the one before it is kept until the
trial ends.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from rlvo.files import atomic_write, file_sha256
from rlvo.training.records import BEST_WEIGHTS, EpochMetrics, damaged

WEIGHTS, STATE, MANIFEST = "model.safetensors", "state.pt", "manifest.json"

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

    last, previous, new = folder / "last", folder / "previous", folder / "new"
    files = {WEIGHTS: model, STATE: state.getvalue()}
    for name, data in files.items():
        atomic_write(new / name, data)
    atomic_write(new / MANIFEST, json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}))
    if last.exists():
        shutil.rmtree(previous, ignore_errors=True)
        last.rename(previous)
    new.rename(last)
    if is_best:
        atomic_write(folder / BEST_WEIGHTS, model)


def load_last(folder: Path) -> Checkpoint | None:
    """The newest sound checkpoint; None where the trial has not ended an epoch.

    Where the last one is damaged, the one before it serves if the best weights on disk agree with it: training then
    repeats one epoch. Raises RlvoError where there are checkpoints and none is sound.
    """
    candidates = [path for name in ("last", "previous") if (path := folder / name).exists()]
    for path in candidates:
        checkpoint = _load(path) if _is_sound(path) else None
        if checkpoint is not None and _restore_best(folder, path, checkpoint.progress):
            return checkpoint
        logger.warning("a checkpoint is damaged: epoch folder '%s'", path.name)
    if candidates:
        raise damaged(candidates[0])
    return None


def drop_previous(folder: Path) -> None:
    """Remove the checkpoint before the last, once the trial has ended."""
    shutil.rmtree(folder / "previous", ignore_errors=True)


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


def _restore_best(folder: Path, checkpoint: Path, progress: Progress) -> bool:
    """Whether the best weights on disk are those `progress` means; written again if they are the checkpoint's own."""
    if progress.best_epoch == len(progress.epochs):
        atomic_write(folder / BEST_WEIGHTS, (checkpoint / WEIGHTS).read_bytes())
        return True
    best = folder / BEST_WEIGHTS
    return best.is_file() and file_sha256(best) == progress.best_sha256
