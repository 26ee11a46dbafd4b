"""Preparation of a cohort into the store. Started again, it prepares only what is new."""

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import connection
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Literal, Self

import pandas as pd
import SimpleITK as sitk

from rlvo.errors import MachineError, RlvoError
from rlvo.imaging.laterality import side_doubts
from rlvo.imaging.prepare import Prepared, check_entry, prepare
from rlvo.imaging.reading.source import check_exists
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.progress import Advance
from rlvo.termination import deaf_to_sigterm

Files = Mapping[str, Path | None]
"""A patient's `ncct`, `cta` and `vessels`."""


@dataclass(frozen=True)
class PreparedPatient:
    """What a study or a reader needs to know about a patient whose volumes are in the store; see `Prepared`.

    `roles` are those of the scans: `cta`, `ncct`. `seconds` is how long the preparation took when it was done.
    """

    address: str
    roles: tuple[str, ...]
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    figures: Mapping[str, float]
    seconds: float

    @property
    def verdict(self) -> Literal["prepared", "review"]:
        """`review` if there are doubts. A refused patient has no volumes at all: preparation raises."""
        return "review" if self.doubts else "prepared"


Outcome = PreparedPatient | RlvoError
"""An error means that the patient is refused."""
Spread = Callable[[Mapping[str, Files], Target, VolumeStore, bool], Generator[tuple[str, Outcome], None, None]]
"""Takes files by patient, target, store and `verify`; gives (patient, outcome of `prepare_into`) as they finish."""


@dataclass(frozen=True)
class PreparedCohort:
    """What has become of each patient, in the order they were given."""

    outcomes: Mapping[str, Outcome]

    @cached_property
    def prepared(self) -> dict[str, PreparedPatient]:
        return {patient: each for patient, each in self.outcomes.items() if isinstance(each, PreparedPatient)}

    @cached_property
    def refused(self) -> dict[str, RlvoError]:
        return {patient: each for patient, each in self.outcomes.items() if isinstance(each, RlvoError)}

    def refusing(self, patients: Iterable[str], reason: str) -> Self:
        """The same with some patients refused, too."""
        return replace(self, outcomes={**self.outcomes, **{each: RlvoError(reason, where=each) for each in patients}})

    def with_sides(self, sides: Mapping[str, str] | pd.Series) -> Self:
        """Add a doubt where the vessels seen contradict the side of the occlusion that the table gives."""
        checked = {
            patient: replace(each, doubts=(*each.doubts, *side_doubts(each.figures, sides.get(patient))))
            for patient, each in self.prepared.items()
        }
        return replace(self, outcomes={**self.outcomes, **checked})


def prepare_cohort(
    rows: Mapping[str, Files],
    target: Target,
    store: VolumeStore,
    *,
    workers: int | None = None,
    spread: Spread | None = None,
    look_again: bool = False,
    reserved: int = 0,
    progress: Advance | None = None,
) -> PreparedCohort:
    """Prepare every patient's files into the store, unless it has them and they match their checksums.

    Args:
        workers: processes; None: one per core. One runs in this process.
        spread: how to spread the patients instead, e.g. over a cluster (`rlvo.imaging.cluster`).
        look_again: look at volumes again that have been assessed (`check_entry`).
        reserved: bytes that the store's disk will have to hold besides.
        progress: called with (done, total) after each patient.

    Raises MachineError if a worker process died (mostly for lack of memory) or the store cannot be written; a
    patient's own errors are in `refused`.
    """
    store.remove_leftovers()
    store.check_space(target, rows.values(), reserved=reserved)
    workers = min(workers or os.cpu_count() or 1, len(rows))
    if spread is not None:
        outcomes = spread(rows, target, store, look_again)
    elif workers > 1:
        outcomes = _prepare_in_processes(rows, target, store, workers, look_again)
    else:
        outcomes = ((p, prepare_into(store, p, files, target, look_again=look_again)) for p, files in rows.items())
    found: dict[str, Outcome] = {}
    with closing(outcomes):  # if it is interrupted in here, too, what has not begun is dropped
        for patient, outcome in outcomes:
            found[patient] = outcome
            if progress is not None:
                progress(len(found), len(rows))
    return PreparedCohort({patient: found[patient] for patient in rows})


def prepare_into(
    store: VolumeStore,
    patient: str,
    files: Files,
    target: Target,
    *,
    look_again: bool = False,
    threads: int | None = None,
) -> Outcome:
    """Prepare one patient unless the store has it, intact. Raises MachineError if the patient is not at fault."""
    try:
        for path in filter(None, files.values()):
            check_exists(path, patient=patient)
        address = store.address(target, files)
        stored = find_entry(store, address, target, look_again=look_again)
        if stored is None:
            start = time.perf_counter()
            paths = (files.get(role) for role in ("ncct", "cta", "vessels"))
            prepared = prepare(target, *paths, patient=patient, threads=threads)
            if store.has(address) and find_entry(store, address, target, look_again=look_again) is None:
                store.discard(address)  # whole, but unsound
            store.put(address, prepared, seconds=time.perf_counter() - start)
            stored = store.read(address)
    except MachineError:
        raise
    except RlvoError as error:
        return error
    roles, seconds = tuple(stored.transforms), store.seconds(address)
    return PreparedPatient(address, roles, stored.doubts, stored.notes, stored.figures, seconds)


def find_entry(store: VolumeStore, address: str, target: Target, *, look_again: bool = False) -> Prepared | None:
    """Return a patient's entry, or None if it is missing, damaged, or not what `prepare` could have made.

    Files are compared with their checksums. Volumes that were assessed when they were prepared are not looked at again,
    unless `look_again` is set.
    """
    if not store.verify(address):
        return None
    try:
        return check_entry(store.read(address), target, again=look_again)
    except (RlvoError, OSError, ValueError, KeyError):  # the last two: written by hand
        return None


def _prepare_in_processes(
    rows: Mapping[str, Files], target: Target, store: VolumeStore, workers: int, look_again: bool
) -> Generator[tuple[str, Outcome], None, None]:
    try:
        with worker_pool(workers) as pool:
            futures = {
                pool.submit(prepare_into, store, patient, files, target, look_again=look_again, threads=1): patient
                for patient, files in rows.items()
            }
            for future in as_completed(futures):
                yield futures[future], future.result()
    except BrokenProcessPool:
        fix = "Run it again with fewer workers; patients already prepared are kept"
        what = "a preparation process died, probably for lack of memory"
        raise MachineError(what, where=store.path, fix=fix) from None


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Start processes that use one thread each, because they share the cores, and that end when this process does.

    They are spawned, not forked: this process may hold threads of torch or Ray. They do not run the user's script. If
    the `with` block is interrupted, also by a SIGTERM to all processes, tasks that run are finished and the others
    dropped.
    """
    pool = ProcessPoolExecutor(workers, mp_context=_Context(), initializer=_initialise_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class _Process(SpawnProcess):
    def start(self) -> None:
        """Start without a main module: a spawned process runs it again, and a script need not guard against that."""
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            with deaf_to_sigterm():
                super().start()
        finally:
            sys.modules["__main__"] = main

    def terminate(self) -> None:
        """As SIGTERM would, which it does not hear."""
        self.kill()


class _Context(SpawnContext):
    Process = _Process


def _initialise_worker() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
