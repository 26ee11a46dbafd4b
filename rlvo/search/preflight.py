"""What must hold before a search starts: one process per study, room on the disk, memory for a trial."""

import fcntl
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from rlvo.config.study import StudyConfig
from rlvo.digits import gigabytes
from rlvo.errors import MachineError, RlvoError, get_logger
from rlvo.files import storage_errors
from rlvo.ray_session import check_resources, is_local
from rlvo.search.heartbeat import Heartbeat, Refusal, at_work
from rlvo.search.plan import StudyPlan, certain_bytes, plan_study, trial_bytes
from rlvo.search.room import asked_by_trial, lacking_room
from rlvo.study.folder import StudyFolder
from rlvo.study.status import read_state
from rlvo.training.records import RECORD

logger = get_logger(__name__)


@contextmanager
def study_lock(study: StudyFolder, refusal: Refusal | None = None) -> Iterator[Heartbeat]:
    """Let one search at a time work on a study: by a lock and, among hosts whose locks do not meet, by a heartbeat.

    Args:
        refusal: the error if another is at work; None: that of a study's search.

    Yields:
        The heartbeat, which tells if another search has taken the study over.

    Raises:
        RlvoError: another search is at work on it.
        StorageError: the disk is full or takes nothing for another reason, then or later in the context.
    """
    study.path.mkdir(parents=True, exist_ok=True)
    with storage_errors(study.path), study.lock.open("a+") as file:
        is_locked = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel releases it when the process ends
        except BlockingIOError:
            file.seek(0)
            raise (refusal or at_work)(study, file.read().strip()) from None
        except OSError as error:
            is_locked = False
            logger.warning("%s: cannot be locked (%s); a heartbeat alone guards it", study.path, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        with Heartbeat(study, is_locked=is_locked, refusal=refusal) as heartbeat:
            yield heartbeat


def check_start(
    config: StudyConfig, study: StudyFolder, address: str | None, warn: Callable[[str], None] = logger.warning
) -> int:
    """Raise, before any volume is prepared, what is known by then of why trials that are left cannot run.

    Args:
        warn: told if no node of the cluster can hold a trial; nodes may join.

    Returns:
        Bytes that the checkpoints of the trials that are left will take on the disk.

    Raises:
        RlvoError: this machine, if no cluster is named, has too few cores, GPUs, or too little memory for a trial; or
            what is named for Optuna is no address of a database.
        MachineError: the disk cannot hold the checkpoints, or no cluster listens at the address.
    """
    if has_ended(config, study):
        return 0
    from rlvo.search.proposals import checked_address, database_address  # with it Optuna, which planning does without

    if (database := database_address(config)) is not None:
        checked_address(database)
    planned = plan_study(config)
    needed = check_disk(planned, study)
    address = address or os.environ.get("RAY_ADDRESS")
    if is_local(address):
        here = {"CPU": count_cpus(), "GPU": count_gpus()}
        check_resources(cpus=config.resources.cpus, gpus=config.resources.known_gpus, available=here)
        check_memory(planned, on_gpu=_trains_on_gpu(config))
    elif address and (lacking := lacking_room(address, asked_by_trial(config, planned, of_cluster=True))):
        warn(lacking)
    return needed


def has_ended(config: StudyConfig, study: StudyFolder) -> bool:
    """Whether a search would find nothing left to run."""
    if not study.config.is_file():
        return False
    state = read_state(study)
    return state.is_complete and state.configurations_total >= config.configurations


def _trains_on_gpu(config: StudyConfig) -> bool:
    """On this machine."""
    return count_gpus() > 0 if config.resources.gpus == "auto" else config.resources.gpus > 0


def count_cpus() -> int:
    """Cores that a Ray started here uses."""
    return os.cpu_count() or 1


def count_gpus() -> int:
    """GPUs of this machine that torch can use."""
    import torch

    return torch.cuda.device_count()


def check_disk(planned: StudyPlan, study: StudyFolder) -> int:
    """Bytes of the checkpoints of the trials that have not ended. Raises MachineError if the disk cannot hold them."""
    left = max(planned.trials - sum((trial / RECORD).exists() for trial in study.trials()), 0)
    needed, free = planned.checkpoint_bytes * left // planned.trials, shutil.disk_usage(study.path).free
    if needed > free:
        need, has = gigabytes(needed, free)
        what = f"{left} trial(s) need {need} for checkpoints, but only {has} are free"
        raise MachineError(what, where=study.path, fix="Free some space, or put the work folder on a larger disk")
    return needed


def check_memory(planned: StudyPlan, *, on_gpu: bool) -> None:
    """Refuse what certainly does not fit into this machine's memory, and warn if a trial probably does not.

    Raises:
        RlvoError: weights, gradients, the optimizer's state and one batch alone are too much.
    """
    place, available = ("GPU", gpu_memory()) if on_gpu else ("machine", machine_memory())
    for model in planned.models:
        certain, wanted = certain_bytes(model, planned.grid), trial_bytes(model, planned.grid)
        setting = "batch_size" if model.at_once == model.batch_size else "micro_batch"
        what = f"{model.backbone} with training.{setting} {model.at_once}"
        if certain > available:
            need, has = gigabytes(certain, available)
            raise RlvoError(
                f"{what} needs at least {need}, but the {place} has {has}",
                where=f"training.{setting}",
                fix="Set a smaller batch size, a smaller training.micro_batch or a coarser grid",
            )
        if wanted > available:
            need, has = gigabytes(wanted, available)
            logger.warning("%s may need %s; the %s has %s", what, need, place, has)


def machine_memory() -> float:
    """The machine's memory in bytes, or the limit of the container that this process runs in."""
    memory = float(psutil.virtual_memory().total)
    with suppress(OSError, ValueError):  # there is no container, or no limit: "max"
        memory = min(memory, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    return memory


def gpu_memory() -> float:
    """The first GPU's memory in bytes; infinity if torch sees no GPU."""
    import torch

    return float(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else math.inf


def cut_torn_line(path: Path) -> None:
    """Drop the last line of a file if a full disk cut it short: anything appended to it could not be read."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
