"""A prepared cohort's contact sheet: a picture of every patient who has volumes, and the page of them all."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rlvo.config.grid import Grid
from rlvo.errors import MachineError
from rlvo.imaging.cohort_preparation import PreparedCohort, begin_worker
from rlvo.imaging.contact_sheet import SheetEntry, contact_sheet
from rlvo.imaging.pictures import overlay_picture
from rlvo.imaging.store import VolumeStore


def write_contact_sheet(
    cohort: PreparedCohort,
    store: VolumeStore,
    grid: Grid,
    folder: Path,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `folder`/index.html and its pictures, named by what they show: the page's path. Old pictures are kept.

    Args:
        workers: processes that draw; None: one a core.
        progress: called with (done, all) after each picture.

    Raises:
        MachineError: the folder cannot be written.
    """
    pictures = {patient: folder / "pictures" / f"{each.address[:16]}.png" for patient, each in cohort.prepared.items()}
    missing = {path: cohort.prepared[p].address for p, path in pictures.items() if not path.exists()}
    try:
        _draw(missing, store, grid, workers or os.cpu_count() or 1, progress)
        refused = [SheetEntry(patient, "refused", [str(error)]) for patient, error in cohort.refused.items()]
        usable = [
            SheetEntry(patient, each.verdict, each.doubts, each.notes, each.figures, pictures[patient], each.seconds)
            for patient, each in cohort.prepared.items()
        ]
        return contact_sheet([*refused, *usable], folder)
    except OSError as error:
        raise MachineError(f"cannot write the contact sheet: {error.strerror or error}", where=folder) from None


def _draw(
    missing: dict[Path, str],
    store: VolumeStore,
    grid: Grid,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    if not missing:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(missing)), mp_context=context, initializer=begin_worker) as pool:
        futures = [pool.submit(draw_entry, store, address, grid, path) for path, address in missing.items()]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            if progress is not None:
                progress(done, len(futures))


def draw_entry(store: VolumeStore, address: str, grid: Grid, path: Path) -> None:
    """The picture of one entry of the store."""
    overlay_picture(store.read(address), grid, path)
