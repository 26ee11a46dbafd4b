"""What a trial leaves behind: its identity, one line an epoch, and a completion record written last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, model_validator

from rlvo.config.base import Frozen, content_hash
from rlvo.config.model import Configuration
from rlvo.errors import RlvoError
from rlvo.files import atomic_write, file_sha256

CONFIGURATION = "configuration.json"
"""Beside the folds of a configuration, from its first start on."""
RECORD = "record.json"
EPOCHS = "epochs.jsonl"
PREDICTIONS = "predictions.csv"
BEST_WEIGHTS = "best/model.safetensors"

DIGEST = "digest"
"""In a record's file: SHA-256 over all else in it."""

COMPLETE_AGAIN = f"delete the trial's {RECORD}: the next search completes it again from its last checkpoint"

OBJECTIVE = "val/auc"
"""What configurations are compared by: its mean over the folds, each at its best epoch."""

OUT_OF_MEMORY = (
    "Set a smaller training.batch_size or grid, or a larger share of the machine for a trial (resources.gpus, "
    "resources.cpus), so that fewer run at once"
)

EpochMetrics = dict[str, float]
"""`train/loss`, `val/loss`, `val/auc`, …, `lr`; an undefined metric is left out."""


class TrialIdentity(Frozen):
    """What a trial is, wherever and whenever it runs: a configuration on one fold of one split of one cohort."""

    study: str
    configuration: str
    """The configuration's key."""
    fold: int
    split_hash: str
    data_hash: str

    @property
    def key(self) -> str:
        """SHA-256 (hex) of the identity."""
        return content_hash(self)


class CompletionRecord(Frozen):
    """The end of a trial. It exists only once everything it names is on disk."""

    identity: TrialIdentity
    configuration: Configuration
    status: Literal["finished", "failed", "pruned"]
    reason: str | None = None
    """Why the trial failed or was pruned."""
    best_epoch: int | None = None
    """Epoch (from 1) with the lowest validation loss; None where no epoch ended."""
    epochs: int
    """Epochs that ended."""
    metrics: EpochMetrics = Field(default_factory=dict)
    """The best epoch's metrics."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each file the trial answers for, by path within the trial's folder."""
    seconds: float
    """Time spent in training, over all starts, up to the last epoch that ended."""

    @model_validator(mode="before")
    @classmethod
    def _is_as_written(cls, content: Any, info: ValidationInfo) -> Any:
        """A file's digest is checked, and is no part of the record."""
        if info.mode == "json" and isinstance(content, dict) and content.pop(DIGEST, None) != content_hash(content):
            raise ValueError("altered since it was written")
        return content


def write_record(folder: Path, record: CompletionRecord) -> None:
    """Write the completion record of the trial in `folder`, atomically."""
    content = record.model_dump(mode="json")
    atomic_write(folder / RECORD, json.dumps({**content, DIGEST: content_hash(content)}, indent=1, allow_nan=False))


def read_record(folder: Path) -> CompletionRecord | None:
    """The completion record in `folder`; None where the trial has not ended.

    Raises RlvoError where the record is damaged or altered, or a file it names is missing or altered.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        record = CompletionRecord.model_validate_json(path.read_bytes())
    except ValidationError:
        raise damaged(path, COMPLETE_AGAIN) from None
    for name, expected in record.files.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != expected:
            raise damaged(folder / name, COMPLETE_AGAIN)
    return record


def write_epochs(folder: Path, epochs: Sequence[EpochMetrics]) -> None:
    """Write all epochs so far to `epochs.jsonl`: one JSON object a line, `epoch` counting from 1."""
    lines = (
        json.dumps({"epoch": number, **metrics}, allow_nan=False) + "\n" for number, metrics in enumerate(epochs, 1)
    )
    atomic_write(folder / EPOCHS, "".join(lines))


def read_epochs(folder: Path) -> list[dict[str, float]]:
    """The lines of `epochs.jsonl`, oldest first; empty where no epoch has ended. Raises RlvoError where damaged."""
    path = folder / EPOCHS
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []
    except ValueError:
        raise damaged(path) from None


def damaged(path: Path, remedy: str = "delete the trial's folder to train it again") -> RlvoError:
    """The error for a trial's file that is missing, truncated or altered."""
    return RlvoError("missing or altered since it was written", where=path, fix=f"Put the file back, or {remedy}")
