"""A page of all patients of a cohort, worst first: verdict, reasons, figures with their limits, picture."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

import jinja2

from rlvo.files import atomic_write
from rlvo.imaging.pictures import SLAB_MM
from rlvo.imaging.prepare import NAMES
from rlvo.imaging.quality import LIMITS, Limit

Verdict = Literal["refused", "review", "prepared"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
TEMPLATE = Path(__file__).with_name("contact_sheet.html")


@dataclass(frozen=True)
class SheetEntry:
    """One patient on the page.

    Attributes:
        reasons: why the patient was refused or needs a review; notes: what was done to the volumes.
        figures: quality, `<volume>/<figure>`, as in `Prepared.figures`.
        picture: an existing file, linked relative to the page.
        seconds: that preparation took.
    """

    patient: str
    verdict: Verdict
    reasons: Sequence[str] = ()
    notes: Sequence[str] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    picture: Path | None = None
    seconds: float | None = None


def contact_sheet(entries: Sequence[SheetEntry], folder: Path) -> Path:
    """Write `folder`/index.html, a page without script that needs nothing but the pictures: its path.

    Refused patients come first, then those for review, then the others; of the same verdict those with a figure
    furthest outside its limits, then those with most reasons, then in the order given.

    Raises:
        OSError: the page cannot be written.
    """
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    ordered = sorted(
        entries, key=lambda each: (VERDICTS.index(each.verdict), -_excess(each.figures), -len(each.reasons))
    )
    counts = Counter(each.verdict for each in entries)
    page = environment.from_string(TEMPLATE.read_text()).render(
        patients=[_described(each, folder) for each in ordered],
        counts={verdict: counts[verdict] for verdict in VERDICTS},
        slab_mm=f"{SLAB_MM['cta']:g}",
    )
    path = folder / "index.html"
    atomic_write(path, page)
    return path


def _described(entry: SheetEntry, folder: Path) -> dict[str, object]:
    """What the template shows of a patient."""
    figures = {tuple(key.rpartition("/")[::2]): value for key, value in entry.figures.items()}
    found = list(dict.fromkeys(volume for volume, _ in figures))
    volumes = sorted(found, key=[*NAMES, *found].index)
    names = list(dict.fromkeys(name for _, name in figures))
    return {
        "name": entry.patient,
        "verdict": entry.verdict,
        "reasons": entry.reasons,
        "notes": entry.notes,
        "picture": quote(os.path.relpath(entry.picture, folder)) if entry.picture else None,
        "seconds": entry.seconds,
        "volumes": [NAMES.get(volume, volume) for volume in volumes],
        "rows": [_row(name, [figures.get((volume, name)) for volume in volumes]) for name in names],
    }


def _row(name: str, values: Sequence[float | None]) -> dict[str, object]:
    """One figure of all volumes, with its limits where it has any."""
    limit = LIMITS.get(name)
    return {
        "figure": name.replace("_hu", " HU").replace("_", " "),
        "cells": [
            {"text": "" if value is None else f"{value:.3g}", "mark": _mark(_beyond(limit, value))} for value in values
        ],
        "good": _range(limit, limit.good) if limit else "",
        "usable": _range(limit, limit.usable) if limit else "",
    }


def _mark(beyond: float) -> str:
    return "" if beyond == 0 else "doubtful" if beyond <= 1 else "hopeless"


def _excess(figures: Mapping[str, float]) -> float:
    """How far the worst figure lies beyond its limits."""
    found = [_beyond(LIMITS.get(key.rpartition("/")[2]), value) for key, value in figures.items()]
    return max(found, default=0.0)


def _beyond(limit: Limit | None, value: float | None) -> float:
    """0 in the good range, then growing to 1 at the end of the usable one and on; inf for what is no number."""
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
    """A range in words; an end that good and usable share is the figure's own, no limit."""
    is_limit = [good != usable for good, usable in zip(limit.good, limit.usable, strict=True)]
    if is_limit == [True, False]:
        return f"≥ {ends[0]:g}"
    if is_limit == [False, True]:
        return f"≤ {ends[1]:g}"
    return f"{ends[0]:g}–{ends[1]:g}"
