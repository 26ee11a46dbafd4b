"""A page of all patients of a prepared cohort, worst first: verdict, reasons, figures with their limits, picture."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from urllib.parse import quote

from rlvo.config.grid import Grid
from rlvo.errors import MachineError
from rlvo.files import atomic_write
from rlvo.imaging.alignment import quality
from rlvo.imaging.alignment.on_grid import GRID_LIMITS
from rlvo.imaging.alignment.quality import Limit
from rlvo.imaging.cohort_preparation import PreparedCohort, PreparedPatient, worker_pool
from rlvo.imaging.prepare import ROLE_NAMES
from rlvo.imaging.store import VolumeStore
from rlvo.progress import Advance
from rlvo.report.pictures import SLAB_MM, draw_overlay
from rlvo.report.style import render_page
from rlvo.synthetic.cohort import has_synthetic

TEMPLATE = Path(__file__).with_name("contact_sheet.html")
LIMITS = GRID_LIMITS | quality.LIMITS


def write_contact_sheet(
    cohort: PreparedCohort,
    store: VolumeStore,
    grid: Grid,
    folder: Path,
    *,
    workers: int | None = None,
    progress: Advance | None = None,
) -> Path:
    """Write `folder`/index.html and its pictures, named by what they show, and return the page's path.

    Args:
        workers: processes that draw; None: one per core. Pictures that exist already are kept.
        progress: called with (done, total) after each picture.

    Raises:
        MachineError: the folder cannot be written.
    """
    pictures = {patient: folder / "pictures" / f"{each.address[:16]}.png" for patient, each in cohort.prepared.items()}
    missing = {path: cohort.prepared[p].address for p, path in pictures.items() if not path.exists()}
    try:
        if missing:
            with worker_pool(min(workers or os.cpu_count() or 1, len(missing))) as pool:
                futures = [pool.submit(_draw_entry, store, address, grid, path) for path, address in missing.items()]
                for done, future in enumerate(as_completed(futures), start=1):
                    future.result()
                    if progress is not None:
                        progress(done, len(futures))
        return write_page(cohort, pictures, folder)
    except OSError as error:
        raise MachineError(f"cannot write the contact sheet: {error.strerror or error}", where=folder) from None


def _draw_entry(store: VolumeStore, address: str, grid: Grid, path: Path) -> None:
    draw_overlay(store.read(address), grid, path)


def write_page(cohort: PreparedCohort, pictures: Mapping[str, Path], folder: Path) -> Path:
    """Write `folder`/index.html, a page without script that needs nothing but the pictures, and return its path.

    Refused patients come first, then those for review, then the others; of the same verdict those with a figure
    furthest outside its limits, then those with most doubts, then in the order given.

    `pictures` are existing files by patient, linked relative to the page. Raises OSError if the page cannot be written.
    """

    def rank(patient: str) -> tuple[bool, float, int]:
        each = cohort.prepared[patient]
        return not each.doubts, -_excess(each.figures), -len(each.doubts)

    ordered = sorted(cohort.prepared, key=rank)
    counts = Counter(each.verdict for each in cohort.prepared.values())
    page = render_page(
        TEMPLATE,
        refused={patient: str(error) for patient, error in cohort.refused.items()},
        patients=[_describe(patient, cohort.prepared[patient], pictures.get(patient), folder) for patient in ordered],
        counts={"refused": len(cohort.refused), "review": counts["review"], "prepared": counts["prepared"]},
        slab_mm=f"{SLAB_MM['cta']:g}",
        is_synthetic=has_synthetic(cohort.prepared),
    )
    path = folder / "index.html"
    atomic_write(path, page)
    return path


def _describe(name: str, patient: PreparedPatient, picture: Path | None, folder: Path) -> dict[str, object]:
    """Return what the template shows of a patient with volumes."""
    figures = {tuple(key.rpartition("/")[::2]): value for key, value in patient.figures.items()}
    found = list(dict.fromkeys(volume for volume, _ in figures))
    volumes = sorted(found, key=[*ROLE_NAMES, *found].index)
    rows = dict.fromkeys(name for _, name in figures)
    return {
        "name": name,
        "verdict": patient.verdict,
        "reasons": patient.doubts,
        "notes": patient.notes,
        "picture": quote(os.path.relpath(picture, folder)) if picture else None,
        "seconds": patient.seconds,
        "volumes": [ROLE_NAMES.get(volume, volume) for volume in volumes],
        "rows": [_row(name, [figures.get((volume, name)) for volume in volumes]) for name in rows],
    }


def _row(name: str, values: Sequence[float | None]) -> dict[str, object]:
    """Return one figure of all volumes, with its limits if it has any."""
    limit = LIMITS.get(name)
    beyond = [_beyond(limit, value) for value in values]
    marks = ["" if each == 0 else "doubtful" if each <= 1 else "hopeless" for each in beyond]
    texts = ["" if value is None else f"{value:.3g}" for value in values]
    return {
        "figure": name.replace("_hu", " HU").replace("_", " "),
        "cells": [{"text": text, "mark": mark} for text, mark in zip(texts, marks, strict=True)],
        "good": _range(limit, limit.good) if limit else "any",
        "usable": _range(limit, limit.usable) if limit else "any",
    }


def _excess(figures: Mapping[str, float]) -> float:
    """Return how far the worst figure is outside its limits."""
    found = [_beyond(LIMITS.get(key.rpartition("/")[2]), value) for key, value in figures.items()]
    return max(found, default=0.0)


def _beyond(limit: Limit | None, value: float | None) -> float:
    """Return 0 in the good range, growing to 1 at the end of the usable range and beyond; inf for NaN."""
    if limit is None or value is None:
        return 0.0
    if math.isnan(value):
        return math.inf
    gaps = (limit.good[0] - value, value - limit.good[1])
    widths = (limit.good[0] - limit.usable[0], limit.usable[1] - limit.good[1])
    return max(
        (gap / width if width else math.inf) if gap > 0 else 0.0 for gap, width in zip(gaps, widths, strict=True)
    )


def _range(limit: Limit, ends: tuple[float, float]) -> str:
    """Format a range; an end that good and usable share is the figure's own, not a limit."""
    low, high = (good != usable for good, usable in zip(limit.good, limit.usable, strict=True))
    if low != high:
        return f"≥ {ends[0]:g}" if low else f"≤ {ends[1]:g}"
    return f"{ends[0]:g}–{ends[1]:g}"
