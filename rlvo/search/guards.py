"""What must hold before a search starts: one process on a study, room on the disk, memory for a trial."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray._common.utils import get_system_memory

from rlvo.errors import MachineError, RlvoError
from rlvo.files import told_when_full
from rlvo.search.plan import BYTES_A_WEIGHT, StudyPlan
from rlvo.training.records import RECORD

LOCK = "search.lock"
"""Locked by the process that runs the search, and tells who that is. The kernel lets go when the process ends."""
TRAINED_COPIES = 4
"""What training holds, in sizes of the model: weights, gradients, and Adam's two moments."""

logger = logging.getLogger(__name__)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Alone in the study folder among searches, those of other hosts included (NFS from version 4 on).

    Raises:
        RlvoError: another search is at work in it.
        DiskFullError: the disk is full, or becomes so inside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with told_when_full(folder), (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RlvoError(
                f"another search is at work on this study ({file.read().strip()})",
                where=folder,
                fix="Wait for it (rlvo status shows how far it is), or end that process",
            ) from None
        except OSError as error:
            logger.warning("%s: cannot be locked (%s); start no second search on it", folder, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def check_disk(planned: StudyPlan, folder: Path) -> None:
    """Raise MachineError where the disk cannot hold the checkpoints of the trials that have not ended."""
    left = max(planned.trials - len(list(folder.glob(f"trials/*/*/{RECORD}"))), 0)
    needed, free = planned.checkpoint_bytes * left // planned.trials, shutil.disk_usage(folder).free
    if needed > free:
        what = f"{left} trial(s) need {needed / 1e9:.1f} GB for checkpoints, {free / 1e9:.1f} GB are free"
        raise MachineError(what, where=folder, fix="Free space, or put the work folder on a larger disk")


def check_memory(planned: StudyPlan, *, on_gpu: bool) -> None:
    """Refuse what certainly does not fit into this machine's memory, and warn where a trial probably does not.

    Raises:
        RlvoError: weights, gradients, the optimizer's state and one batch alone are too much.
    """
    place, there = ("GPU", _gpu_memory()) if on_gpu else ("machine", get_system_memory())
    for model in planned.models:
        volumes = model.batch_size * model.channels * math.prod(planned.grid)
        certain = BYTES_A_WEIGHT * (model.parameters * TRAINED_COPIES + volumes)
        wanted, what = certain + model.activation_bytes, f"{model.backbone} with training.batch_size {model.batch_size}"
        if certain > there:
            raise RlvoError(
                f"{what} needs at least {certain / 1e9:.1f} GB, the {place} has {there / 1e9:.1f} GB",
                where="training.batch_size",
                fix="Set a smaller batch size or a coarser grid",
            )
        if wanted > there:
            logger.warning("%s may need %.1f GB, the %s has %.1f GB", what, wanted / 1e9, place, there / 1e9)


def _gpu_memory() -> float:
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else math.inf


def cut_torn_line(path: Path) -> None:
    """Drop the end of a file of lines that a full disk cut short: what is written behind it could not be read."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
