"""Preparation of a cohort over the nodes of a Ray cluster; the only module beside `search` that imports Ray."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import SimpleITK as sitk
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlvo.errors import MachineError, RlvoError
from rlvo.imaging.cohort_preparation import Files, Outcome, prepare_into
from rlvo.imaging.reading import check_exists, split_series
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target

CONNECT_SECONDS = 10
NODE_SECONDS = 120
"""How long a node may take to answer: it starts a worker for that."""
RETRIES = 2
"""How often a patient is tried again whose worker or node died."""


def prepare_on_cluster(
    rows: Mapping[str, Files], target: Target, store: VolumeStore, *, address: str, verify: bool = False
) -> Iterator[tuple[str, Outcome]]:
    """Prepare every patient's files into the store, one CPU a patient.

    Args:
        rows: files by patient, on storage that every node mounts under the same path; so must the store be.
        address: the cluster's (`host:port`, `ray://host:port`, `auto`); a Ray that is connected already is used.
        verify: as of `prepare_cohort`.

    Yields:
        (patient, outcome of `prepare_into`), as they finish.

    Raises:
        MachineError: no cluster answers, or a patient's workers keep dying.
        NotSharedError: a node does not see a file or the store.
    """
    with connected(address), shared(store.path) as mark:
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_prepare)
        pending = {}
        for patient, files in rows.items():
            try:
                for path in filter(None, files.values()):
                    check_exists(path, patient=patient)
            except RlvoError as error:  # missing here, so the cohort's fault; missing there only, the cluster's
                yield patient, error
            else:
                absolute = {role: path and path.absolute() for role, path in files.items()}
                pending[task.remote(store, patient, absolute, target, mark, verify)] = patient
        try:
            while pending:
                (finished,), _ = ray.wait(list(pending), num_returns=1)
                yield pending.pop(finished), _outcome(finished, store)
        finally:
            for unfinished in pending:
                ray.cancel(unfinished)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """The Ray at `address` for as long as the context lasts; one that is connected already is used and left alone.

    Raises:
        MachineError: there is no Ray at the address.
    """
    if ray.is_initialized():
        yield
        return
    try:
        check_address(address)
        start_ray(address)
    except OSError as error:
        fix = "Check --address or RAY_ADDRESS"
        raise MachineError(f"no Ray cluster answers ({error})", where=address, fix=fix) from None
    try:
        yield
    finally:
        ray.shutdown()


def start_ray(address: str, **options: Any) -> None:
    """`ray.init` without a word: Ray prints notices of its own to standard output, where --json goes."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray._private.worker._worker_logs_enabled = False
    ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)


def check_address(address: str) -> None:
    """Raise OSError where nothing listens at `host:port`: Ray would try for many minutes, and log that it does."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


class NotSharedError(RlvoError):
    """A node of the cluster does not see what the others see."""


def not_shared(path: Path, node: str | None = None) -> NotSharedError:
    """The error for a path that a node (None: this one) does not see."""
    what = f"the cluster's node {node or socket.gethostname()} does not see this, or cannot write it"
    fix = "Keep cohort, store and studies on storage that every node mounts under the same path"
    return NotSharedError(what, where=path, fix=fix)


@contextmanager
def shared(folder: Path) -> Iterator[Path]:
    """Check that every node of the connected cluster shares `folder`: it reads what is written here, and the other way.

    Yields:
        A file in it, by which a node that joins later can tell as well: a folder of its own of that name has none.

    Raises:
        NotSharedError: a node does not.
        MachineError: the folder cannot be written here, or a node does not answer.
    """
    try:
        mark = folder / f".shared-{secrets.token_hex(8)}" / "mark"
        mark.parent.mkdir(parents=True)
        mark.write_text(mark.parent.name)
    except OSError as error:
        raise MachineError(f"cannot be written: {error.strerror or error}", where=folder) from None
    try:
        for node, answer in _ask_every_node(mark):
            try:
                sees = ray.get(answer, timeout=NODE_SECONDS)
            except RayError as error:
                where = f"the cluster's node {node}"
                raise MachineError(f"does not answer ({type(error).__name__})", where=where) from None
            if not sees or not (mark.parent / sees).exists():
                raise not_shared(folder, node)
        yield mark
    finally:
        shutil.rmtree(mark.parent, ignore_errors=True)


def _ask_every_node(mark: Path) -> list[tuple[str, ray.ObjectRef]]:
    """By name and address, so that a person finds it."""
    task, asked = ray.remote(num_cpus=0, max_retries=0)(_answer), []
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            asked.append((name, task.options(scheduling_strategy=there).remote(mark, node["NodeID"])))
    return asked


def _answer(mark: Path, name: str) -> str | None:
    """Runs on a node: read the mark and leave a file of the name beside it; None where that cannot be done."""
    try:
        if mark.read_text() != mark.parent.name:
            return None
        (mark.parent / name).touch()
    except OSError:
        return None
    return name


def _prepare(store: VolumeStore, patient: str, files: Files, target: Target, mark: Path, verify: bool) -> Outcome:
    for path in (mark, *(split_series(path)[0] for path in files.values() if path is not None)):
        if not path.exists():
            raise not_shared(path)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    return prepare_into(store, patient, files, target, verify=verify, threads=1)


def _outcome(finished: ray.ObjectRef, store: VolumeStore) -> Outcome:
    try:
        return ray.get(finished)
    except RayTaskError as error:  # the task's own exception
        raise error.cause from None
    except RayError as error:  # the worker's or the node's death
        fix = "Run it again with fewer CPUs a node; what is prepared stays"
        what = f"a preparation worker died {RETRIES + 1} times, mostly for lack of memory ({type(error).__name__})"
        raise MachineError(what, where=store.path, fix=fix) from None
