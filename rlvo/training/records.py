"""What a trial leaves on disk: one line per epoch, and a completion record with its identity, written last."""

import json
import math
import operator
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from statistics import stdev
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, model_validator

from rlvo.config.base import Frozen, content_hash
from rlvo.config.model import Configuration
from rlvo.config.sections import Compile
from rlvo.config.training import CheckpointName
from rlvo.errors import RlvoError
from rlvo.files import atomic_write, file_sha256, parse_json

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
"""Configurations are compared by its mean over the folds, each at its best epoch (`training.checkpoint`)."""

OUT_OF_MEMORY = (
    "Set a smaller training.batch_size, training.micro_batch or grid, resources.activation_checkpointing, or a larger "
    "share of the machine per trial (resources.gpus, resources.cpus), so that fewer trials run at once"
)

CONTEXT_BYTES = 1_000_000_000
"""What a process takes of a GPU in addition to what torch allocates there: CUDA's context and its libraries."""

Status = Literal["finished", "failed", "pruned"]
ComputingPrecision = Literal["float32", "tf32", "bfloat16"]
EpochMetrics = dict[str, float]
"""`train/loss`, `val/loss`, `val/auc`, …, `lr`; undefined metrics are left out."""


def is_better(epoch: EpochMetrics, best: EpochMetrics, by: CheckpointName) -> bool:
    """Whether an epoch takes the place of the best before it; of equals the first stays, except by `last`."""
    match by:
        case "loss":
            return epoch["val/loss"] < best["val/loss"]
        case "auc":
            return epoch.get(OBJECTIVE, -math.inf) > best.get(OBJECTIVE, -math.inf)
        case "last":
            return True


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


def member_key(configuration: Configuration, fold: int, absent: Collection[str] = ()) -> str:
    """`<configuration key>-f<fold>`: the name of a trained trial in predictions, ensembles and files.

    In predictions, ` without <channels>` follows if it was asked without some.
    """
    without = f" without {' '.join(absent)}" if absent else ""
    return f"{configuration.key}-f{fold}{without}"


def linear_member_key(fold: int, *, with_table: bool) -> str:
    """The name in predictions and files of the linear model of the volumes (`training.linear_model`)."""
    return f"linear-image-table-f{fold}" if with_table else f"linear-image-f{fold}"


class Retry(Frozen):
    """Memory ran out, and the trial went on from its last checkpoint with fewer patients at once."""

    epoch: int
    """The first epoch (from 1) that was trained so."""
    micro_batch: int
    """How many patients of a batch were computed at once from then on, at most."""


class Start(Frozen):
    """A training from random weights to the last epoch, and whether it has left chance (`training.chance`)."""

    training_auc: float
    """AUC of its training patients, or of some of them if these were enough: of the network after its last epoch or, if
    that is at chance, of the kept one."""
    chance_limit: float
    """What scores without any relation to the labels exceed one time in twenty; of some, one in a hundred."""

    @property
    def left_chance(self) -> bool:
        """Whether the network tells apart at least the patients it was trained on."""
        return self.training_auc > self.chance_limit


class Computation(Frozen):
    """How a trial was trained."""

    device: str
    """`cpu`, or the GPU's name."""
    threads: int | None
    """On a CPU, on which the last digits depend on them."""
    precision: ComputingPrecision
    """Of the convolutions; validation is always in float32."""
    deterministic: bool
    """Whether it would give the same numbers again, on the same kind of device."""
    compiled: Annotated[Compile, Field(exclude_if="none".__eq__)] = "none"
    """Whether training steps ran compiled, and how."""

    @property
    def label(self) -> str:
        """In words, e.g. `cpu, 2 threads, float32, deterministic`."""
        threads = f"{self.threads} threads" if self.threads else ""
        repeats = "deterministic" if self.deterministic else ""
        compiled = {"none": "", "default": "compiled", "cuda_graphs": "compiled with CUDA graphs"}[self.compiled]
        return ", ".join(filter(None, [self.device, threads, self.precision, repeats, compiled]))


class CompletionRecord(Frozen):
    """How a trial ended. It is written only when every file it names is on disk."""

    identity: TrialIdentity
    configuration: Configuration
    status: Status
    reason: str | None = None
    """Why the trial failed or was pruned."""
    best_epoch: int | None = None
    """Epoch (from 1) whose weights are kept (`training.checkpoint`); None if no epoch ended."""
    epochs: int
    """Number of epochs that ended, over all starts."""
    metrics: EpochMetrics = Field(default_factory=dict)
    """The best epoch's metrics."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of each file that belongs to the result, by path within the trial's folder."""
    seconds: float
    """Training time over all starts, up to the last epoch that ended."""
    retries: Annotated[tuple[Retry, ...], Field(exclude_if=operator.not_)] = ()
    """Each time that memory ran out and the trial went on with fewer patients at once."""
    computed: Annotated[tuple[Computation, ...], Field(exclude_if=operator.not_)] = ()
    """How its epochs were trained, the first ones first; several if it was continued in another way. Empty if an
    earlier version began it."""

    starts: Annotated[tuple[Start, ...], Field(exclude_if=operator.not_)] = ()
    """Each training from random weights, the kept one last; those before it never left chance (`training.restarts`).
    Empty if the trial did not finish, or finished before this was recorded."""

    @property
    def never_left_chance(self) -> bool:
        """Whether its network does not even tell apart the patients it was trained on; False if that is not known."""
        return len(self.starts) > 0 and not self.starts[-1].left_chance

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
        if info.mode != "json" or not isinstance(content, dict):
            return content
        if content.pop(DIGEST, None) != content_hash(content):
            raise ValueError("altered since it was written")
        return {**content, "configuration": known_configuration(content.get("configuration"))}


def known_configuration(content: object) -> Configuration:
    """A configuration from its JSON's content. All folds have the same: it is validated once, which takes long.

    Raises ValidationError if it is none.
    """
    return _configuration(json.dumps(content))


@lru_cache
def _configuration(text: str) -> Configuration:
    return Configuration.model_validate_json(text)


def mean_objective(records: Collection[CompletionRecord]) -> float:
    """The mean objective over a configuration's finished trials, by which configurations are compared."""
    return math.fsum(record.metrics[OBJECTIVE] for record in records) / len(records)


def objective_se(records: Collection[CompletionRecord]) -> float | None:
    """The standard error of `mean_objective`: the folds' SD (n − 1) over √n; None with fewer than two.

    It tells how much the mean would move with other folds, not with other patients: folds share most of their training
    patients, so it is too small (Bengio & Grandvalet 2004).
    """
    return standard_error([record.metrics[OBJECTIVE] for record in records])


def standard_error(values: Sequence[float]) -> float | None:
    """Of their mean: SD (n − 1) over √n; None with fewer than two."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def write_record(folder: Path, record: CompletionRecord) -> None:
    """Write the completion record of the trial in `folder`, atomically."""
    content = record.model_dump(mode="json")
    atomic_write(folder / RECORD, json.dumps({**content, DIGEST: content_hash(content)}, indent=1, allow_nan=False))


def read_record(folder: Path, *, unchecked: Collection[str] = ()) -> CompletionRecord | None:
    """The completion record in `folder`; None if the trial has not ended.

    Args:
        unchecked: files that only have to be there: whoever uses one of them calls `check_file` before.

    Raises:
        RlvoError: the record is damaged or altered, or a file that it names is missing or altered.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        record = CompletionRecord.model_validate_json(path.read_bytes())
    except ValidationError:
        raise damaged(path, COMPLETE_AGAIN) from None
    for name in record.files:
        if name not in unchecked:
            check_file(folder, record, name)
        elif not (folder / name).is_file():
            raise damaged(folder / name, COMPLETE_AGAIN)
    return record


def check_file(folder: Path, record: CompletionRecord, name: str) -> None:
    """Raise RlvoError if a file that the record of the trial in `folder` names is missing or altered."""
    if not (folder / name).is_file() or file_sha256(folder / name) != record.files[name]:
        raise damaged(folder / name, COMPLETE_AGAIN)


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
        return parse_epochs(path.read_bytes())
    except FileNotFoundError:
        return []
    except ValueError:
        raise damaged(path) from None


def parse_epochs(content: bytes) -> list[dict[str, float]]:
    """The lines of `epochs.jsonl`, oldest first. Raises ValueError if they are damaged."""
    written = content.splitlines()
    lines: list[Any] = parse_json(b"[%b]" % b",".join(written))
    if len(lines) != len(written) or not all(isinstance(line, dict) for line in lines):
        raise ValueError("a line is no JSON object")
    return lines


def damaged(path: Path, remedy: str = "delete the trial's folder to train it again") -> RlvoError:
    """The error for a trial's file that is missing, truncated or altered."""
    return RlvoError("the file is missing or altered", where=path, fix=f"Put the file back, or {remedy}")
