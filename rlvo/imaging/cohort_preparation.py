"""Preparation of a cohort: over this machine's cores, or a Ray cluster. Started again, it prepares what is new."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import connection
from pathlib import Path
from typing import Literal

import pandas as pd
import SimpleITK as sitk

from rlvo.errors import MachineError, RlvoError
from rlvo.imaging.laterality import side_doubts
from rlvo.imaging.prepare import prepare
from rlvo.imaging.reading import check_exists
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target

Files = Mapping[str, Path | None]
"""A patient's `ncct`, `cta` and `vessels`."""


@dataclass(frozen=True)
class PreparedPatient:
    """What a study or a reader needs to know of a patient whose volumes are in the store; see `Prepared`."""

    address: str
    roles: tuple[str, ...]
    """Of the scans: `cta`, `ncct`."""
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    figures: Mapping[str, float]
    seconds: float
    """What preparing took, when it was done."""

    @property
    def verdict(self) -> Literal["prepared", "review"]:
        """As of `Prepared`."""
        return "review" if self.doubts else "prepared"


Outcome = PreparedPatient | RlvoError
"""An error refuses the patient."""


@dataclass(frozen=True)
class PreparedCohort:
    """By patient, in the order they were given: those prepared, and the errors of those refused."""

    prepared: Mapping[str, PreparedPatient]
    refused: Mapping[str, RlvoError]

    def with_sides(self, sides: Mapping[str, str] | pd.Series) -> PreparedCohort:
        """Doubts added where the vessels seen speak against the side of the occlusion that the table gives."""
        checked = {
            patient: replace(each, doubts=(*each.doubts, *side_doubts(each.figures, sides.get(patient))))
            for patient, each in self.prepared.items()
        }
        return replace(self, prepared=checked)


def prepare_cohort(
    rows: Mapping[str, Files],
    target: Target,
    store: VolumeStore,
    *,
    workers: int | None = None,
    cluster: str | None = None,
    verify: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedCohort:
    """Prepare every patient's files into the store.

    Args:
        workers: processes; None: one a core. One runs in this process.
        cluster: address of a Ray cluster to use instead; files and store must be reachable from its nodes.
        verify: compare what is in the store with its checksums, and prepare again what was damaged.
        progress: called with (done, all) after each patient.

    Raises:
        MachineError: a worker process died (mostly memory), or the store cannot be written; a patient's own errors
            are in `refused`.
    """
    store.remove_leftovers()
    store.check_space(target, rows.values())
    workers = min(workers or os.cpu_count() or 1, len(rows))
    if cluster is not None:
        from rlvo.imaging.cluster import prepare_on_cluster

        outcomes: Iterable[tuple[str, Outcome]] = prepare_on_cluster(
            rows, target, store, address=cluster, verify=verify
        )
    elif workers > 1:
        outcomes = _in_processes(rows, target, store, workers, verify)
    else:
        outcomes = ((p, prepare_into(store, p, files, target, verify=verify)) for p, files in rows.items())
    found: dict[str, Outcome] = {}
    for patient, outcome in outcomes:
        found[patient] = outcome
        if progress is not None:
            progress(len(found), len(rows))
    ordered = [(patient, found[patient]) for patient in rows]
    return PreparedCohort(
        prepared={patient: outcome for patient, outcome in ordered if isinstance(outcome, PreparedPatient)},
        refused={patient: outcome for patient, outcome in ordered if isinstance(outcome, RlvoError)},
    )


def prepare_into(
    store: VolumeStore, patient: str, files: Files, target: Target, *, verify: bool = False, threads: int | None = None
) -> Outcome:
    """Prepare one patient unless the store has it. Raises MachineError for what is not this patient's fault."""
    try:
        for path in files.values():
            if path is not None:
                check_exists(path, patient=patient)
        address = store.address(target, files)
        if not (store.verify(address) if verify else store.has(address)):
            start = time.perf_counter()
            prepared = prepare(
                target, files.get("ncct"), files.get("cta"), files.get("vessels"), patient=patient, threads=threads
            )
            store.put(address, prepared, seconds=time.perf_counter() - start)
        stored = store.read(address)
    except MachineError:
        raise
    except RlvoError as error:
        return error
    return PreparedPatient(
        address, tuple(stored.transforms), stored.doubts, stored.notes, stored.figures, store.seconds(address)
    )


def _in_processes(
    rows: Mapping[str, Files], target: Target, store: VolumeStore, workers: int, verify: bool
) -> Iterator[tuple[str, Outcome]]:
    """Outcomes as they come. Spawned, not forked: the parent may hold threads of torch or Ray."""
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker) as pool:
            futures = {
                pool.submit(prepare_into, store, patient, files, target, verify=verify, threads=1): patient
                for patient, files in rows.items()
            }
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    except BrokenProcessPool:
        fix = "Run it again with fewer workers; what is prepared stays"
        raise MachineError("a preparation process died, mostly for lack of memory", where=store.path, fix=fix) from None


def begin_worker() -> None:
    """One thread, since workers share the cores among themselves; and no life after the parent's, however it ends."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
