"""One column of a cohort table: text to values, with a finding for every cell that does not fit the variable."""

import re
from dataclasses import replace
from datetime import date

import pandas as pd

from rlvo.cohort.hints import ERROR, UNKNOWN, hint
from rlvo.cohort.variables import Variable
from rlvo.errors import Finding
from rlvo.text import escape_controls

MISSING = frozenset(("", "na", "n/a", "nan", "<na>", "null", "none", "nat"))
"""Cells that mean "no value", in lower case. Not applied to patient ids: "NA" can be one."""
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
MISSING_CODE = 999.0
"""What statistics packages write for a missing value; it lies within the range of a volume."""
EARLIEST_ADMISSION = date(1990, 1, 1)


def missing_words(variable: Variable) -> frozenset[str]:
    """The cells that mean "no value" in a column, in lower case: not its levels, one of which may be "none"."""
    return MISSING.difference(level.lower() for level in variable.levels)


def typed_column(text: pd.Series, variable: Variable, decimal_comma: bool) -> tuple[pd.Series, list[Finding]]:
    """Convert a column to values; a cell that does not fit the variable becomes missing and a finding.

    Args:
        text: cells as text, missing if they mean "no value"; index: patient id, or "" if there is none.
        variable: what the column holds.
        decimal_comma: "70,5" is a number.
    """
    # What is written many times is looked at once.
    codes, written = pd.factorize(text)
    cells = pd.Series(written, dtype="str")
    values, fits = _typed(cells, variable, decimal_comma)
    per_cell = [None if fit else _finding(cell, variable, decimal_comma) for cell, fit in zip(cells, fits, strict=True)]
    found = [
        replace(finding, patient=str(patient) or None)
        for patient, code in zip(text.index, codes.tolist(), strict=True)
        if code >= 0 and (finding := per_cell[code])
    ]
    return values.where(fits).reindex(codes).set_axis(text.index).rename(variable.name), found


def _typed(text: pd.Series, variable: Variable, decimal_comma: bool) -> tuple[pd.Series, pd.Series]:
    """Convert cells, none of them missing; return the values, and which of the cells fit."""
    if variable.kind == "text":
        values = text
        unclear = text.str.fullmatch(f"{ERROR.pattern}|{UNKNOWN.pattern}", flags=re.IGNORECASE)
        fits = ~unclear.astype(bool) | (variable.role == "image")
    elif variable.kind == "date":
        values = _dates(text)
        fits = values.notna()
    elif variable.kind == "categorical" or variable.levels:
        spellings = {level.lower(): level for level in variable.levels}
        spellings |= {f"{level}.0": level for level in variable.levels if level.isdigit()}  # eTICI read as a number
        values = text.map(lambda cell: spellings.get(cell.lower(), cell)).astype("str")
        fits = values.isin(variable.levels)
    elif variable.kind == "binary":
        values = _numbers(text.str.lower().replace({"true": "1", "false": "0"}), decimal_comma)
        fits = values.isin([0, 1])
    else:
        values = _numbers(text, decimal_comma)
        fits = values.between(variable.low, variable.high) & (values != MISSING_CODE)
        if variable.unit == "points":
            fits &= values % 1 == 0
    return values, fits.astype(bool)


def abbreviate(cell: str) -> str:
    """Return a cell as a message shows it: on one line, and at most 40 characters of it."""
    text = escape_controls(" ".join(cell.split()))
    return text if len(text) <= 40 else f"{text[:39]}…"


def _finding(cell: str, variable: Variable, decimal_comma: bool) -> Finding:
    shown, fix = abbreviate(cell), hint(cell, variable, decimal_comma=decimal_comma)
    return Finding(None, variable.name, f"'{shown}' is not allowed", fix, shown, variable.allowed)


def _numbers(text: pd.Series, decimal_comma: bool) -> pd.Series:
    """Convert to float64; NaN if the text is not a number."""
    cells = text
    if decimal_comma:
        cells = cells.mask(cells.str.fullmatch(DECIMAL_COMMA), cells.str.replace(",", "."))
    is_number = cells.str.fullmatch(NUMBER)
    return pd.to_numeric(cells.where(is_number), errors="coerce").astype("float64")


def _dates(text: pd.Series) -> pd.Series:
    """Convert to YYYY-MM-DD, as text; missing if the cell is no such date, or not a possible date of admission."""
    written = text.where(text.str.fullmatch(r"\d{4}-\d\d-\d\d([T ][\d:.+Z-]*)?").astype(bool)).str[:10]
    days = pd.to_datetime(written, format="%Y-%m-%d", errors="coerce")
    within = (days >= pd.Timestamp(EARLIEST_ADMISSION)) & (days <= pd.Timestamp(date.today()))
    return written.where(within).astype("str")
