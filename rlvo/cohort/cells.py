"""One column of a cohort table: text to values, with a finding for every cell that cannot be one."""

from __future__ import annotations

import re
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pandera.pandas as pa

from rlvo.cohort.variables import Variable
from rlvo.errors import Finding

MISSING = frozenset(("", "na", "n/a", "#n/a", "nan", "<na>", "null", "none", "nat"))
"""Cells that say nothing, in any case. Not applied to patient ids: "NA" can be one."""
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
MISSING_CODE = 999.0
"""What statistics packages write for a missing value where it is within the range of a volume."""
EARLIEST_ADMISSION = date(1990, 1, 1)
EXCEL_EPOCH = date(1899, 12, 30)
HINTS = (
    (r"\d{4}-\d{1,2}-\d{1,2}.*|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}.*|\d{1,2}-[a-z]{3}(-\d+)?", "It looks like a date"),
    (r"-?(9|99|999|9999)(\.0)?", "If it stands for a missing value, leave the cell empty"),
    (r".*%", "Write the number without the percent sign, in the unit named"),
    (r"#[\w/!?]+", "It is the error of a formula"),
    (r"[<>≤≥~≈].*|.*\d\s?[-–]\s?\d.*", "Write one number"),
    (r"[+-]?\d{1,3}([ .,'’\u00a0]\d{3})+([.,]\d+)?", "Write numbers without thousands separators"),
    (r"[+-]?\d+,\d+", "Write a decimal point; here the comma separates cells"),
    (r"[+-]?\d+([.,]\d+)?\s*[^\d\s.,].*", "Write the number alone, in the unit named"),
    (r"(m?tici\s*)?(0|1|2[abc]?|3|i{1,3}|ii[abc])", "Write the grade alone, with a small letter"),
    (r"male|man|hombre|h|varon|varón|v|männlich|female|woman|mujer|weiblich|w", "M is male, F is female"),
    (r"y|yes|no|n|s|si|sí|x|ja|nein|pos|neg|positive|negative|verdadero|falso", "Write 1 for yes and 0 for no"),
    (r"l|r|izq.*|der.*|izda|dcha|links|rechts|both|bilateral", "Write left or right"),
    (r"unk.*|unknown|missing|desconocid.|nd|n\.d\.|\?+|-+|\.+", "If it is not known, leave the cell empty"),
)
"""How cells are often written that cannot be read, and what helps; the first that fits."""


def typed_column(text: pd.Series, variable: Variable, decimal_comma: bool) -> tuple[pd.Series, list[Finding]]:
    """Values of one column; what cannot be one, or lies outside the range or levels, is missing and a finding.

    Args:
        text: cells as text, missing where they say nothing; index: patient id, "" where there is none.
        variable: what the column is.
        decimal_comma: "70,5" is a number.
    """
    if variable.kind == "text":
        return text, []
    if variable.kind == "date":
        values = _dates(text)
        wrong = values.isna() & text.notna()
    elif variable.kind == "categorical" or variable.levels:
        written = {level.lower(): level for level in variable.levels}
        written |= {f"{level}.0": level for level in variable.levels if level.isdigit()}  # eTICI read as a number
        values = text.map(lambda cell: written.get(cell.lower(), cell), na_action="ignore").astype("str")
        wrong = _violations(values, pa.Check.isin(variable.levels))
    elif variable.kind == "binary":
        values = _numbers(text.str.lower().replace({"true": "1", "false": "0"}), decimal_comma)
        wrong = _violations(values, pa.Check.isin([0, 1])) | (values.isna() & text.notna())
    else:
        values = _numbers(text, decimal_comma)
        wrong = _violations(values, pa.Check.in_range(variable.low, variable.high)) | (values.isna() & text.notna())
        wrong |= values == MISSING_CODE
        if variable.unit == "points":
            wrong |= values.notna() & (values % 1 != 0)
    findings = [_finding(str(patient), cell, variable) for patient, cell in text[wrong].items()]
    return values.mask(wrong), findings


def shown(cell: str) -> str:
    """A cell in a message: on one line, and not all of a long one."""
    text = " ".join(cell.split())
    return text if len(text) <= 40 else f"{text[:39]}…"


def _finding(patient: str, cell: str, variable: Variable) -> Finding:
    what = f"'{shown(cell)}' is not allowed"
    return Finding(patient or None, variable.name, what, _hint(cell, variable), shown(cell), variable.allowed)


def _hint(cell: str, variable: Variable) -> str | None:
    if variable.kind in ("continuous", "date") and re.fullmatch(r"[234]\d{4}(\.0)?", cell):
        return f"It may be Excel's number for {EXCEL_EPOCH + timedelta(days=int(cell[:5]))}"
    if variable.kind == "date":
        return "Write year, month and day in this order: others can be read in two ways"
    return next((hint for pattern, hint in HINTS if re.fullmatch(pattern, cell.lower(), re.DOTALL)), None)


def _numbers(text: pd.Series, decimal_comma: bool) -> pd.Series:
    """Float64; NaN where the text is no number."""
    cells = text
    if decimal_comma:
        cells = cells.mask(cells.str.fullmatch(DECIMAL_COMMA), cells.str.replace(",", "."))
    is_number = cells.str.fullmatch(NUMBER)
    return pd.to_numeric(cells.where(is_number), errors="coerce").astype("float64")


def _dates(text: pd.Series) -> pd.Series:
    """YYYY-MM-DD as text; missing where the cell is no such date, or one at which nobody can have been admitted."""
    written = text.where(text.str.fullmatch(r"\d{4}-\d\d-\d\d([T ][\d:.+Z-]*)?").fillna(False)).str[:10]
    days = pd.to_datetime(written, format="%Y-%m-%d", errors="coerce")
    within = (days >= pd.Timestamp(EARLIEST_ADMISSION)) & (days <= pd.Timestamp(date.today()))
    return written.where(within).astype("str")


def _violations(values: pd.Series, check: pa.Check) -> pd.Series:
    """Which values fail the check, by position."""
    wrong = np.zeros(len(values), dtype=bool)
    try:
        pa.SeriesSchema(checks=check, nullable=True).validate(values.reset_index(drop=True), lazy=True)
    except pa.errors.SchemaErrors as error:
        wrong[error.failure_cases["index"].to_numpy(dtype=int)] = True
    return pd.Series(wrong, index=values.index)
