"""Preparation of a cohort over the nodes of a Ray cluster."""

from collections.abc import Generator, Mapping
from pathlib import Path

import ray
import SimpleITK as sitk
from ray.exceptions import RayError, RayTaskError

from rlvo.errors import MachineError, RlvoError
from rlvo.imaging.cohort_preparation import Files, Outcome, prepare_into
from rlvo.imaging.reading.source import check_exists, split_series
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.ray_session import connect_to_cluster, not_shared, shared

RETRIES = 2
"""How often a patient is tried again if the worker or its node died."""


def prepare_on_cluster(
    rows: Mapping[str, Files], target: Target, store: VolumeStore, look_again: bool = False, *, address: str
) -> Generator[tuple[str, Outcome], None, None]:
    """Prepare every patient's files into the store, with one CPU per patient; bind `address` for `prepare_cohort`.

    Every node must mount the files and the store under the same paths. `address` is the cluster's (`host:port`,
    `ray://host:port`, `auto`); a Ray that is connected already is used. Yields (patient, outcome of `prepare_into`),
    as they finish. Raises MachineError if no cluster answers or a patient's workers keep dying, and NotSharedError if
    a node does not see a file or the store.
    """
    with connect_to_cluster(address), shared(store.path) as mark:
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_prepare)
        pending = {}
        for patient, files in rows.items():
            try:
                for path in filter(None, files.values()):
                    check_exists(path, patient=patient)
            except RlvoError as error:  # missing here too: the cohort is at fault, not the cluster
                yield patient, error
            else:
                absolute = {role: path and path.absolute() for role, path in files.items()}
                pending[task.remote(store, patient, absolute, target, mark, look_again)] = patient
        try:
            while pending:
                (finished,), _ = ray.wait(list(pending), num_returns=1)
                yield pending.pop(finished), _get_outcome(finished, store)
        finally:
            for unfinished in pending:
                ray.cancel(unfinished)


def _prepare(store: VolumeStore, patient: str, files: Files, target: Target, mark: Path, look_again: bool) -> Outcome:
    for path in (mark, *(split_series(path)[0] for path in files.values() if path is not None)):
        if not path.exists():
            raise not_shared(path)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    return prepare_into(store, patient, files, target, look_again=look_again, threads=1)


def _get_outcome(finished: ray.ObjectRef, store: VolumeStore) -> Outcome:
    try:
        outcome: Outcome = ray.get(finished)
        return outcome
    except RayTaskError as error:  # the task's own exception
        raise error.cause from None
    except RayError as error:  # the worker or its node died
        fix = "Run it again with fewer CPUs per node; patients already prepared are kept"
        what = f"a preparation worker died {RETRIES + 1} times, probably for lack of memory ({type(error).__name__})"
        raise MachineError(what, where=store.path, fix=fix) from None
