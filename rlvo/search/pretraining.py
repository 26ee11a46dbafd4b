"""Pretraining as a Ray task on one trial's share of the machine or cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ray
from ray.exceptions import RayError

from rlvo.errors import MachineError, RlvoError
from rlvo.imaging.store import local_copy
from rlvo.progress import Advance
from rlvo.ray_session import check_resources, not_shared, ray_session
from rlvo.search.heartbeat import Heartbeat
from rlvo.search.preflight import study_lock
from rlvo.search.room import RoomWatch
from rlvo.search.trainable import LOCAL_STORE
from rlvo.study.folder import StudyFolder
from rlvo.training.checkpoint import load_progress
from rlvo.training.pretraining import EXAMPLE, Pretraining, Unlabelled, pretrain
from rlvo.training.records import OUT_OF_MEMORY, read_epochs

INTERVAL = 0.5
"""Seconds between two looks at how far it is."""


@contextmanager
def pretraining_lock(folder: Path) -> Iterator[Heartbeat]:
    """Let one `rlvo pretrain` at a time write a folder, as `study_lock` does a search. Raises RlvoError likewise."""

    def refusal(study: StudyFolder, who: str) -> RlvoError:
        what, fix = f"another pretraining of the same weights is at work ({who})", "Wait for it, or end that process"
        return RlvoError(what, where=study.path, fix=fix)

    with study_lock(StudyFolder(folder), refusal) as heartbeat:
        yield heartbeat


def run_pretraining(
    job: Pretraining,
    data: Unlabelled,
    folder: Path,
    *,
    max_failures: int,
    address: str | None = None,
    progress: Advance,
) -> None:
    """Pretrain in `folder`, or continue; nothing is done if that has ended.

    Args:
        folder: an absolute path; on a cluster, one that every node sees.
        max_failures: how often it is continued after its process has died.
        address: Ray cluster; None: `RAY_ADDRESS`, or else this machine.
        progress: called with (epochs that have ended, epochs in all).

    Raises:
        RlvoError: as `pretrain`, or this machine has too few cores or GPUs, or another is at work in the folder.
        MachineError: its process died, or no Ray answers.
    """
    epochs, ended = job.configuration.training.epochs, load_progress(folder)
    if ended is not None and len(ended.epochs) == epochs and (folder / EXAMPLE).exists():
        progress(epochs, epochs)
        return
    store = data.training[0].parents[1]
    with pretraining_lock(folder) as heartbeat, ray_session((folder, store), address) as is_local:
        gpus = job.resources.known_gpus
        if job.resources.gpus == "auto":
            gpus = float(ray.cluster_resources().get("GPU", 0) >= 1)
        if is_local:
            check_resources(cpus=job.resources.cpus, gpus=gpus)
        memory = {"memory": round(job.resources.memory_gb * 1e9)} if job.resources.memory_gb else {}
        room = None if is_local else RoomWatch({"CPU": float(job.resources.cpus), "GPU": gpus, **memory})
        task = ray.remote(num_cpus=job.resources.cpus, num_gpus=gpus, max_retries=max_failures, **memory)(_pretrain)
        running = task.remote(job, data, folder, gpus)
        try:
            while not ray.wait([running], timeout=INTERVAL)[0]:
                heartbeat.check()
                ended_epochs = len(read_epochs(folder))
                if room is not None:
                    room.look(is_stuck=ended_epochs == 0)
                progress(min(ended_epochs, epochs), epochs)
            error = ray.get(running)
        except RayError as failure:
            what = f"its process died, often for lack of memory ({type(failure).__name__})"
            raise MachineError(what, where="pretraining", fix=OUT_OF_MEMORY) from None
        finally:
            ray.cancel(running, force=True)
    if error is not None:
        raise error
    progress(epochs, epochs)


def _pretrain(job: Pretraining, data: Unlabelled, folder: Path, gpus: float) -> RlvoError | None:
    """In a worker: the error, which Ray would wrap."""
    from rlvo.training.shortage import keep_to_share

    if not folder.exists():
        return not_shared(folder)
    keep_to_share(gpus)
    try:
        pretrain(job, on_this_node(data), folder, device="auto" if gpus else "cpu")
    except RlvoError as error:
        return error
    return None


def on_this_node(data: Unlabelled) -> Unlabelled:
    """The data, its volumes copied to the node's own disk if `RLVO_LOCAL_STORE` names a folder there."""
    if not (local := os.environ.get(LOCAL_STORE)):
        return data
    training, held_back = (
        tuple(local_copy(each, Path(local)) for each in part) for part in (data.training, data.held_back)
    )
    return replace(data, training=training, held_back=held_back)
