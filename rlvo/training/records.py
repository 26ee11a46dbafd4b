"""What a trial leaves on disk: one line per epoch, and a completion record with its identity, written last."""

import json
import math
import operator
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, model_validator

from rlvo.config.base import Frozen, content_hash
from rlvo.config.model import Configuration
from rlvo.errors import RlvoError
from rlvo.files import atomic_write, file_sha256

RECORD = "record.json"
EPOCHS = "epochs.jsonl"
PREDICTIONS = "predictions.csv"
BEST_WEIGHTS = "best/model.safetensors"

KILLED = "killed-for-memory"
"""In a trial's folder: its process was ended because the machine ran low on memory."""

DIGEST = "digest"
"""Key in a record's file: SHA-256 over everything else in it."""

COMPLETE_AGAIN = f"delete the trial's {RECORD}: the next search completes the trial from its last checkpoint"

OBJECTIVE = "val/auc"
"""Configurations are compared by its mean over the folds, each at its best epoch."""

OUT_OF_MEMORY = (
    "Set a smaller training.batch_size, training.micro_batch or grid, or a larger share of the machine per trial "
    "(resources.gpus, resources.cpus), so that fewer trials run at once"
)

Status = Literal["finished", "failed", "pruned"]
EpochMetrics = dict[str, float]
"""`train/loss`, `val/loss`, `val/auc`, …, `lr`; undefined metrics are left out."""


class TrialIdentity(Frozen):
    """What a trial is, wherever and whenever it runs: a configuration on a fold of a split of a cohort."""

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


def member_key(configuration: Configuration, fold: int) -> str:
    """`<configuration key>-f<fold>`: the name of a trained trial in predictions, ensembles and files."""
    return f"{configuration.key}-f{fold}"


class Retry(Frozen):
    """Memory ran out, and the trial went on from its last checkpoint with fewer patients at once."""

    epoch: int
    """The first epoch (from 1) that was trained so."""
    micro_batch: int
    """How many patients of a batch were computed at once from then on, at most."""


class CompletionRecord(Frozen):
    """How a trial ended. It is written only when every file it names is on disk."""

    identity: TrialIdentity
    configuration: Configuration
    status: Status
    reason: str | None = None
    """Why the trial failed or was pruned."""
    best_epoch: int | None = None
    """Epoch (from 1) with the lowest validation loss; None if no epoch ended."""
    epochs: int
    """Number of epochs that ended."""
    metrics: EpochMetrics = Field(default_factory=dict)
    """The best epoch's metrics."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each file that belongs to the result, by path within the trial's folder."""
    seconds: float
    """Training time over all starts, up to the last epoch that ended."""
    retries: Annotated[tuple[Retry, ...], Field(exclude_if=operator.not_)] = ()
    """Each time that memory ran out and the trial went on with fewer patients at once."""

    @property
    def outcome(self) -> Status:
        """`status`, except that a trial has failed if it finished and its objective is undefined at its best epoch."""
        return "failed" if self.status == "finished" and self.objective is None else self.status

    @property
    def failure(self) -> str | None:
        """Why the trial failed; None if it did not."""
        if self.outcome != "failed":
            return None
        undefined = f"{OBJECTIVE} is undefined at the best epoch"
        return undefined if self.status == "finished" else self.reason or "training failed"

    @property
    def objective(self) -> float | None:
        """`val/auc` at the best epoch; None if it is undefined."""
        value = self.metrics.get(OBJECTIVE, math.nan)
        return value if math.isfinite(value) else None

    @model_validator(mode="before")
    @classmethod
    def _is_as_written(cls, content: Any, info: ValidationInfo) -> Any:
        """Check the digest of a file, which is not a part of the record."""
        if info.mode == "json" and isinstance(content, dict) and content.pop(DIGEST, None) != content_hash(content):
            raise ValueError("altered since it was written")
        return content


def mean_objective(records: Collection[CompletionRecord]) -> float:
    """The mean objective over a configuration's finished trials, by which configurations are compared."""
    return math.fsum(record.metrics[OBJECTIVE] for record in records) / len(records)


def write_record(folder: Path, record: CompletionRecord) -> None:
    """Write the completion record of the trial in `folder`, atomically."""
    content = record.model_dump(mode="json")
    atomic_write(folder / RECORD, json.dumps({**content, DIGEST: content_hash(content)}, indent=1, allow_nan=False))


def read_record(folder: Path) -> CompletionRecord | None:
    """The completion record in `folder`; None if the trial has not ended.

    Raises RlvoError if the record is damaged or altered, or a file that it names is missing or altered.
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


def write_epochs(folder: Path, epochs: Sequence[EpochMetrics], *, durable: bool = True) -> None:
    """Write all epochs so far to `epochs.jsonl`: one JSON object per line, with `epoch` counting from 1."""
    lines = (
        json.dumps({"epoch": number, **metrics}, allow_nan=False) + "\n" for number, metrics in enumerate(epochs, 1)
    )
    atomic_write(folder / EPOCHS, "".join(lines), durable=durable)


def read_epochs(folder: Path) -> list[dict[str, float]]:
    """The lines of `epochs.jsonl`, oldest first; none if no epoch has ended. Raises RlvoError if it is damaged."""
    path = folder / EPOCHS
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []
    except ValueError:
        raise damaged(path) from None


def damaged(path: Path, remedy: str = "delete the trial's folder to train it again") -> RlvoError:
    """The error for a trial's file that is missing, truncated or altered."""
    return RlvoError("the file is missing or altered", where=path, fix=f"Put the file back, or {remedy}")
