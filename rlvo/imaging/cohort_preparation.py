"""Preparation of a cohort over the machine's cores. Started again, it prepares only what is new or changed."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from rlvo.errors import MachineError, RlvoError
from rlvo.imaging.prepare import prepare
from rlvo.imaging.reading import check_exists
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target

Files = Mapping[str, Path | None]


@dataclass(frozen=True)
class PreparedCohort:
    """By patient: the address in the store and warnings of those prepared, the error of those refused."""

    addresses: dict[str, str]
    warnings: dict[str, tuple[str, ...]]
    failed: dict[str, RlvoError]


def prepare_cohort(
    rows: Mapping[str, Files],
    target: Target,
    store: VolumeStore,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PreparedCohort:
    """Prepare every patient's files (`ncct`, `cta`, `vessels`: path or None) into the store.

    Args:
        workers: processes; None: one a core. One runs in this process.
        progress: called with (done, all) after each patient.

    Raises:
        MachineError: a worker process died (mostly memory), or the store cannot be written; a patient's own errors are
            in `failed`.
    """
    store.remove_leftovers()
    workers = min(workers or os.cpu_count() or 1, len(rows))
    outcomes: dict[str, tuple[str, tuple[str, ...]] | RlvoError] = {}

    def note(patient: str, outcome: tuple[str, tuple[str, ...]] | RlvoError) -> None:
        outcomes[patient] = outcome
        if progress is not None:
            progress(len(outcomes), len(rows))

    if workers <= 1:
        for patient, files in rows.items():
            note(patient, prepare_into(store, patient, files, target, threads=None))
    else:
        # Spawned, not forked: the parent may hold threads of torch or Ray. One thread each: they share the cores.
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(workers, mp_context=context, initializer=_use_one_thread) as pool:
                futures = {
                    pool.submit(prepare_into, store, patient, files, target, threads=1): patient
                    for patient, files in rows.items()
                }
                try:
                    for future in as_completed(futures):
                        note(futures[future], future.result())
                finally:
                    pool.shutdown(wait=False, cancel_futures=True)
        except BrokenProcessPool:
            fix = "Run it again with fewer workers; what is prepared stays"
            raise MachineError(
                "a preparation process died, mostly for lack of memory", where=store.path, fix=fix
            ) from None
    ordered = {patient: outcomes[patient] for patient in rows}
    done = {patient: outcome for patient, outcome in ordered.items() if not isinstance(outcome, RlvoError)}
    return PreparedCohort(
        addresses={patient: address for patient, (address, _) in done.items()},
        warnings={patient: warnings for patient, (_, warnings) in done.items()},
        failed={patient: outcome for patient, outcome in ordered.items() if isinstance(outcome, RlvoError)},
    )


def prepare_into(
    store: VolumeStore, patient: str, files: Files, target: Target, *, threads: int | None
) -> tuple[str, tuple[str, ...]] | RlvoError:
    """Prepare one patient unless the store has it: (address, warnings), or the error that refuses the patient."""
    try:
        for path in files.values():
            if path is not None:
                check_exists(path, patient=patient)
        address = store.address(target, files)
        if not store.has(address):
            prepared = prepare(
                target, files.get("ncct"), files.get("cta"), files.get("vessels"), patient=patient, threads=threads
            )
            store.put(address, prepared)
        return address, store.warnings(address)
    except MachineError:
        raise
    except RlvoError as error:
        return error


def _use_one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
