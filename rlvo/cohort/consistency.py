"""What no cell shows by itself: rows that are no patients, ids that differ by a slip, units, order of volumes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from rlvo.cohort.cells import DECIMAL_COMMA, shown
from rlvo.cohort.variables import VARIABLES
from rlvo.errors import Finding

DELAYS = ("tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml")
"""Volumes above growing delays: each lies within the one before."""
SUMMARY = re.compile(
    r"(sub)?total.*|mean.*|average|median.*|sum|suma|media|mediana|min(imum)?|max(imum)?|std|sd|n ?= ?\d+|count|iqr"
    r"|notes?\b.*|comments?\b.*|legend.*|source:.*|\*.*|patient_id|end",
    re.IGNORECASE,
)
"""Ids that rows below or between the patients have."""
MIN_VALUES = 10
"""How many values a column needs before its unit is judged."""


def thousands(table: pd.DataFrame) -> list[Finding]:
    """Columns with cells such as "1.234" among whole numbers: the separator may be of thousands or of decimals.

    Looks at cells that came as text; numbers that are numbers already leave no doubt.
    """
    continuous = [name for name, variable in VARIABLES.items() if name in table and variable.kind == "continuous"]
    return [finding for name in continuous for finding in _thousands(table[name], name)]


def mixed_decimals(text: pd.DataFrame) -> list[Finding]:
    """A finding where some numbers have a decimal comma and others a decimal point."""
    continuous = [name for name, variable in VARIABLES.items() if name in text and variable.kind == "continuous"]
    cells = text[continuous].stack()
    comma = cells[cells.str.fullmatch(DECIMAL_COMMA)]
    point = cells[cells.str.fullmatch(r"[+-]?\d+\.\d+")]
    if comma.empty or point.empty:
        return []
    what = f"decimal commas ({comma.iloc[0]}) and decimal points ({point.iloc[0]}) in one table"
    return [Finding(None, None, what, "Write one of them throughout, and no thousands separators")]


def volume_order(typed: pd.DataFrame) -> list[Finding]:
    """A finding for every volume that is larger than one above a shorter delay, which holds it."""
    findings = []
    for shorter, longer in (DELAYS[:2], DELAYS[1:], DELAYS[::2]):
        if not {shorter, longer} <= set(typed):
            continue
        outer, inner = typed[shorter].to_numpy(), typed[longer].to_numpy()
        for row in np.flatnonzero(inner > outer).tolist():
            if (shorter, longer) == DELAYS[::2] and DELAYS[1] in typed and not np.isnan(typed[DELAYS[1]].iloc[row]):
                continue  # told already for the delay between
            what = f"{inner[row]:g} mL is more than {shorter}, {outer[row]:g} mL, which holds it"
            fix = "Are the columns swapped, or in different units?"
            patient = str(typed.index[row]) or None
            findings.append(Finding(patient, longer, what, fix, f"{inner[row]:g}", f"0 to {outer[row]:g} mL"))
    return findings


def check_cohort(typed: pd.DataFrame) -> list[Finding]:
    """What is suspicious in a checked table as a whole: rows, ids, centre names, units, files."""
    ids = [str(patient) for patient in typed.index if patient]
    return [
        *_ids(ids),
        *_empty_rows(typed),
        *_alike(ids, "patient_id"),
        *(_alike(typed["center"].dropna().unique(), "center") if "center" in typed else ()),
        *_units(typed),
        *_shared_files(typed),
    ]


def _ids(ids: list[str]) -> Iterator[Finding]:
    for patient in ids:
        if SUMMARY.fullmatch(patient):
            yield Finding(patient, "patient_id", "looks like a total, note or header, not a patient", "Remove the row")
        elif not patient.isprintable():
            yield Finding(shown(patient), "patient_id", "holds a line break or control character", "Write it plainly")
        elif re.fullmatch(r"\d([.,]\d+)?E[+-]?\d+", patient, re.IGNORECASE):
            what = "was shortened by a spreadsheet to a rounded number"
            yield Finding(patient, "patient_id", what, "Format the column as text and enter the ids again")
    if len(ids) > 1 and all(re.fullmatch(r"\d+[.,]0", patient) for patient in ids):
        yield Finding(None, "patient_id", f"all end in .0, as {ids[0]}: read as numbers", "Write them as text")


def _empty_rows(typed: pd.DataFrame) -> Iterator[Finding]:
    if len(typed.columns):
        for patient in typed.index[typed.isna().all(axis=1)]:
            what = "the row holds an id and nothing else that is readable"
            yield Finding(str(patient) or None, None, what, "Fill it in, or remove it if it is a note")


def _alike(names: Iterable[str], column: str) -> Iterator[Finding]:
    """Names that differ by case, blanks or leading zeros only."""
    seen: dict[str, str] = {}
    for name in dict.fromkeys(map(str, names)):
        plain = re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"\s+", "", name).casefold())
        if (other := seen.setdefault(plain, name)) != name:
            what = f"'{shown(name)}' and '{shown(other)}' differ by case, blanks or leading zeros only"
            patient = name if column == "patient_id" else None
            yield Finding(patient, column, what, "Write one of them, or names that differ in more", shown(name))


def _units(typed: pd.DataFrame) -> Iterator[Finding]:
    for name in (name for name in typed.columns.astype(str) if VARIABLES[name].kind == "continuous"):
        values = typed[name].dropna()
        if len(values) >= MIN_VALUES and values.max() <= 1 and ((values > 0) & (values < 1)).any():
            unit = VARIABLES[name].unit
            what = f"no value is above 1: in another unit than {unit}, or scaled already?"
            yield Finding(None, name, what, f"Give it in {unit}", allowed=VARIABLES[name].allowed)


def _shared_files(typed: pd.DataFrame) -> Iterator[Finding]:
    for name in (name for name in ("ncct", "cta", "vessels") if name in typed):
        first: dict[str, object] = {}
        for patient, file in typed[name].dropna().items():
            if (owner := first.setdefault(file, patient)) != patient:
                what, fix = f"is also that of patient {owner}", "Each patient has a scan of their own"
                yield Finding(str(patient) or None, name, what, fix, shown(str(file)))


def _thousands(cells: pd.Series, name: str) -> Iterator[Finding]:
    written = [cell.strip() for cell in cells if isinstance(cell, str)]
    separated = [cell for cell in written if re.fullmatch(r"\d+[.,]\d+", cell)]
    doubtful = [cell for cell in separated if re.fullmatch(r"[1-9]\d{0,2}[.,]\d{3}", cell)]
    large = [cell for cell in written if re.fullmatch(r"[1-9]\d{2,}", cell)]
    if doubtful and large and len(doubtful) == len(separated):
        what = f"'{doubtful[0]}' among whole numbers such as {large[0]}: are the separators of thousands or decimals?"
        yield Finding(None, name, what, "Write numbers without thousands separators", doubtful[0])
