"""Preparation of a cohort over the nodes of a Ray cluster; the only module beside `search` that imports Ray."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import SimpleITK as sitk
from ray.exceptions import RayTaskError

from rlvo.errors import MachineError, RlvoError
from rlvo.imaging.cohort_preparation import Files, Outcome, prepare_into
from rlvo.imaging.reading import check_exists, split_series
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target

CONNECT_SECONDS = 10
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
        MachineError: no cluster answers, a node does not see a file or the store, or a patient's workers keep dying.
    """
    with connected(address), _mark(store.path) as mark:
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


@contextmanager
def _mark(folder: Path) -> Iterator[Path]:
    """A new file by which a node tells whether it sees the folder; a folder of its own of that name has none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=".shared-")
    except OSError as error:
        raise MachineError(f"cannot write the store: {error.strerror or error}", where=folder) from None
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _prepare(store: VolumeStore, patient: str, files: Files, target: Target, mark: Path, verify: bool) -> Outcome:
    for path in (mark, *(split_series(path)[0] for path in files.values() if path is not None)):
        if not path.exists():
            fix = "Keep cohort and store on storage that every node mounts under the same path"
            raise MachineError(f"not seen from the cluster's node {socket.gethostname()}", where=path, fix=fix)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    return prepare_into(store, patient, files, target, verify=verify, threads=1)


def _outcome(finished: ray.ObjectRef, store: VolumeStore) -> Outcome:
    try:
        return ray.get(finished)
    except RayTaskError as error:  # the task's own exception
        raise error.cause from None
    except ray.exceptions.RayError as error:  # the worker's or the node's death
        fix = "Run it again with fewer CPUs a node; what is prepared stays"
        what = f"a preparation worker died {RETRIES + 1} times, mostly for lack of memory ({type(error).__name__})"
        raise MachineError(what, where=store.path, fix=fix) from None
