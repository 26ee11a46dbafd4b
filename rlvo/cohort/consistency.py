"""Errors that no single cell shows: rows that are not patients, ids spelt two ways, wrong units, nested volumes."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd

from rlvo.cohort.cells import abbreviate
from rlvo.cohort.hints import ERROR
from rlvo.cohort.numerals import continuous_columns
from rlvo.cohort.variables import TMAX_VOLUMES, VARIABLES, VOLUMES, Variable
from rlvo.digits import tell_apart
from rlvo.errors import Finding

SUMMARY = re.compile(
    r"(sub)?total.*|mean.*|average|median.*|sum|suma|media|mediana|min(imum)?|max(imum)?|std|sd|n ?= ?\d+|count|iqr"
    r"|unknown|notes?\b.*|comments?\b.*|legend.*|source:.*|\*.*|patient_id|end",
    re.IGNORECASE,
)
"""What stands in the id column of rows that are not patients."""
SPREADSHEET_IDS = {
    re.compile(pattern, re.IGNORECASE): what
    for pattern, what in (
        (r"\d([.,]\d+)?E[+-]?\d+", "was rounded by a spreadsheet"),
        (
            r"\d{4}-\d\d-\d\d[ T]00:00(:00)?"
            r"|\d{1,2}[- ](jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*([- ]\d{2,4})?",
            "is a date, which a spreadsheet makes of ids like 3-5",
        ),
        (ERROR.pattern, "is a spreadsheet's error"),
        (r"['=].*", "begins with a mark of spreadsheets, which is no part of an id"),
    )
}
"""Ids that a spreadsheet changed, as patterns, and what happened to them."""
LARGER_UNITS = {"mL": ("litres", 1000, 1), "%": ("a fraction of 1", 100, 0)}
"""The unit that a column may be in by mistake: its name, how many of ours it is, and the decimals ours usually has."""
MIN_RATIO = 10
"""How many times larger all the other values must be than those in the larger unit."""
AS_TEXT = "Format the column as text in the spreadsheet and enter the ids again"
MIN_VALUES = 10
"""Number of values from which on a column's unit is judged."""


def volume_order(typed: pd.DataFrame) -> Iterator[Finding]:
    """Find volumes that are larger than the volume above a shorter delay, of which they are a part."""
    for shorter, longer in (TMAX_VOLUMES[:2], TMAX_VOLUMES[1:], TMAX_VOLUMES[::2]):
        if not {shorter, longer} <= set(typed):
            continue
        outer, inner, between = typed[shorter].to_numpy(), typed[longer].to_numpy(), TMAX_VOLUMES[1]
        wrong = inner > outer
        if (shorter, longer) == TMAX_VOLUMES[::2] and between in typed:
            wrong &= typed[between].isna().to_numpy()  # else reported for the delay between the two
        for row in np.flatnonzero(wrong).tolist():
            part, whole = tell_apart(lambda value, more: f"{value:.{6 + more}g}", inner[row], outer[row])
            what = f"{part} mL is more than {shorter}, which includes it and is {whole} mL"
            fix = "Check whether the columns are swapped or in different units"
            patient = str(typed.index[row]) or None
            yield Finding(patient, longer, what, fix, part, f"0 to {whole} mL")


def check_cohort(typed: pd.DataFrame, variables: Mapping[str, Variable] = VARIABLES) -> list[Finding]:
    """Find what is suspicious in a typed table as a whole: rows, ids, centre names, units, files."""
    ids = [str(patient) for patient in typed.index if patient]
    return [
        *_implausible_ids(ids),
        *_empty_rows(typed),
        *_near_duplicates(ids, "patient_id"),
        *(_near_duplicates(typed["person"].dropna(), "person") if "person" in typed else ()),
        *(_near_duplicates(typed["center"].dropna(), "center") if "center" in typed else ()),
        *_wrong_units(typed),
        *_mixed_units(typed, variables),
        *_shared_files(typed),
    ]


def _implausible_ids(ids: list[str]) -> Iterator[Finding]:
    for patient in ids:
        if SUMMARY.fullmatch(patient):
            yield Finding(patient, "patient_id", "looks like a total, note or header, not a patient", "Remove the row")
        elif found := next((what for pattern, what in SPREADSHEET_IDS.items() if pattern.fullmatch(patient)), None):
            yield Finding(patient, "patient_id", found, AS_TEXT)
    long = [patient for patient in ids if re.fullmatch(r"\d{16,}", patient)]
    zeros = [patient[15:] for patient in long]
    if not "".join(zeros).strip("0") and len("".join(zeros)) >= 3:
        what = f"all ids of more than 15 digits, such as {long[0]}, end in zeros: a spreadsheet rounded them"
        yield Finding(None, "patient_id", what, AS_TEXT)
    if len(ids) > 1 and all(re.fullmatch(r"\d+[.,]0", patient) for patient in ids):
        yield Finding(None, "patient_id", f"all ids end in .0, such as {ids[0]}: read as numbers", "Write them as text")


def _empty_rows(typed: pd.DataFrame) -> Iterator[Finding]:
    for patient in typed.index[typed.isna().all(axis=1)] if len(typed.columns) else ():
        what = "the row holds an id but no other readable value"
        yield Finding(str(patient) or None, None, what, "Fill it in, or remove it if it is a note")


def _near_duplicates(names: Iterable[str], column: str) -> Iterator[Finding]:
    """Find names that differ only in case, spaces, dashes, leading zeros or the form of Unicode.

    `P-01`, `p 1` and `P01` are one name, and so are `12` and `1-2`; `1-12` and `11-2` are two.
    """
    spellings = {name: _spelling(name) for name in dict.fromkeys(map(str, names))}
    first: dict[str, str] = {}
    for name, spelling in spellings.items():
        first.setdefault(spelling, name)
    for name, spelling in spellings.items():
        other = first[spelling] if first[spelling] != name else first.get(_without_zeros(_separated(name, "")), name)
        if other != name:
            ways = "case, spaces, dashes, leading zeros or the form of Unicode"
            what = f"'{abbreviate(name)}' and '{abbreviate(other)}' differ only in {ways}"
            patient = name if column == "patient_id" else None
            yield Finding(patient, column, what, "Use one spelling, or names that differ more", abbreviate(name))


def _spelling(name: str) -> str:
    """A name as those that may be the same are spelt: separators only stand between digits."""
    return _without_zeros(re.sub(r"(?<!\d)-|-(?!\d)", "", _separated(name, "-")))


def _separated(name: str, separator: str) -> str:
    """A name in lower case, without invisible characters, with one separator for spaces, dashes and underscores."""
    plain = name.casefold()
    if not plain.isascii():
        plain = unicodedata.normalize("NFKC", name).casefold()
        plain = "".join(character for character in plain if unicodedata.category(character) != "Cf")
    return re.sub(r"[\s_\-\u2010-\u2015\u2212\ufe58\ufe63\uff0d]+", separator, plain.strip())


def _without_zeros(name: str) -> str:
    return re.sub(r"(?<!\d)0+(?=\d)", "", name)


def _wrong_units(typed: pd.DataFrame) -> Iterator[Finding]:
    for name in continuous_columns(typed):
        values = typed[name].dropna()
        if len(values) >= MIN_VALUES and values.max() <= 1 and ((values > 0) & (values < 1)).any():
            variable = VARIABLES[name]
            what = f"no value is above 1: the column is in a unit other than {variable.unit}, or already scaled"
            yield Finding(None, name, what, f"Give it in {variable.unit}", allowed=variable.allowed)


def _mixed_units(typed: pd.DataFrame, variables: Mapping[str, Variable]) -> Iterator[Finding]:
    """Find columns of which a part is in litres, or a fraction of 1: far below the others, and among them if converted.

    That part is a fifth of the column, or written with more decimals than the unit needs, unlike the others.
    """
    for name in (name for name in continuous_columns(typed, variables) if variables[name].unit in LARGER_UNITS):
        variable = variables[name]
        larger, factor, decimals = LARGER_UNITS[str(variable.unit)]
        values = typed[name][typed[name] > 0]
        small, others = values[values < 1], values[values >= 1]
        if not len(small) or len(values) < MIN_VALUES or small.max() * MIN_RATIO > others.min():
            continue
        is_finer = bool((small.round(decimals) != small).all() and (others.round(decimals) == others).all())
        if (small * factor).between(others.min(), others.max()).all() and (is_finer or len(small) >= len(values) / 5):
            patient, value = small.index[0], small.iloc[0]
            what = (
                f"{value:g} (patient {patient}, of {len(small)} such) is far below the other values, {others.min():g} "
                f"to {others.max():g}: {value:g} {variable.unit}, or {value * factor:g} {variable.unit} as {larger}"
            )
            yield Finding(None, name, what, f"Give all values in {variable.unit}", f"{value:g}", variable.allowed)


def _shared_files(typed: pd.DataFrame) -> Iterator[Finding]:
    for name in (name for name in VOLUMES if name in typed):
        first: dict[str, object] = {}
        for patient, file in typed[name].dropna().items():
            if (owner := first.setdefault(file, patient)) != patient:
                what, fix = f"is also the file of patient {owner}", "Each patient needs a separate scan"
                yield Finding(str(patient) or None, name, what, fix, abbreviate(str(file)))
