"""What a trial does if memory runs out: it goes on from its last checkpoint, with half as many patients at once."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError

from rlvo.config.training import TrainingConfig
from rlvo.errors import MachineError
from rlvo.files import atomic_write
from rlvo.training.records import CONTEXT_BYTES, OUT_OF_MEMORY, Retry, damaged

RETRIES = "retries.json"
"""In a trial's folder: its `Retry`s, oldest first."""
MOST_RETRIES = 2
SIGNS = (
    "DefaultCPUAllocator",
    "out of memory",
    "Cannot allocate memory",
    "bad_alloc",
    "_ALLOC_FAILED",
    "create a primitive",
    "unable to find an engine",
)
"""Of these, a RuntimeError of torch holds one if memory ran out: in its allocators, mmap, oneDNN, cuDNN and cuBLAS. The
last is what is left of it if no workspace of a convolution fits (pytorch#108645)."""


class OutOfMemoryError(MachineError):
    """There is not enough memory for a step."""


@contextmanager
def out_of_memory_errors() -> Iterator[None]:
    """Raise OutOfMemoryError if the context runs out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in str(error) for sign in SIGNS):
            on_gpu = isinstance(error, torch.OutOfMemoryError) or re.search("CUDA|CUDNN|CUBLAS|engine", str(error))
            raise OutOfMemoryError("out of GPU memory" if on_gpu else "out of memory", fix=OUT_OF_MEMORY) from None
        raise


def keep_to_share(gpus: float) -> None:
    """Let torch allocate no more of the GPU in this process than its share: beyond that it is out of memory.

    So a trial that needs more than its share takes nothing from the trials beside it. It holds until the process ends.
    Without a GPU, and with whole ones, nothing is done.

    Args:
        gpus: GPUs per trial (`ResourcesConfig`).
    """
    if 0 < gpus < 1 and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(max(gpus - CONTEXT_BYTES / total, gpus / 2))


def read_retries(folder: Path) -> tuple[Retry, ...]:
    """What the trial has done about it so far, oldest first. Raises RlvoError if the file is damaged."""
    try:
        return TypeAdapter(tuple[Retry, ...]).validate_json((folder / RETRIES).read_bytes())
    except FileNotFoundError:
        return ()
    except ValidationError:
        raise damaged(folder / RETRIES) from None


def after_retries(settings: TrainingConfig, retries: tuple[Retry, ...]) -> TrainingConfig:
    """The settings of a trial, with as many patients at once as since its last retry."""
    return settings.model_copy(update={"micro_batch": retries[-1].micro_batch}) if retries else settings


def retry(folder: Path, settings: TrainingConfig, epochs: int) -> Retry | None:
    """Halve how many patients are computed at once from the trial's last checkpoint on.

    Args:
        folder: the trial's.
        settings: as configured.
        epochs: how many had ended at its last checkpoint.

    Returns:
        None if that was done `MOST_RETRIES` times, or nothing can be halved. Retries without an epoch are forgotten.
    """
    retries = read_retries(folder)
    now = after_retries(settings, retries).at_once
    if now == 1 or len(retries) >= MOST_RETRIES:
        _write(folder, tuple(each for each in retries if each.epoch <= epochs))
        return None
    folder.mkdir(parents=True, exist_ok=True)
    another = Retry(epoch=epochs + 1, micro_batch=(now + 1) // 2)
    _write(folder, (*retries, another))
    return another


def free_memory() -> None:
    """Return to the device what was left behind by a step that failed."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _write(folder: Path, retries: tuple[Retry, ...]) -> None:
    if retries:
        atomic_write(folder / RETRIES, TypeAdapter(tuple[Retry, ...]).dump_json(retries))
    else:
        (folder / RETRIES).unlink(missing_ok=True)
