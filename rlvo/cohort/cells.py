"""One column of a cohort table: text to values, with a finding for every cell that does not fit the variable."""

import re
from datetime import date, timedelta

import pandas as pd

from rlvo.cohort.variables import Variable
from rlvo.errors import Finding

MISSING = frozenset(("", "na", "n/a", "nan", "<na>", "null", "none", "nat"))
"""Cells that mean "no value", in lower case. Not applied to patient ids: "NA" can be one."""
ERROR = re.compile(r"#(N/[AD]|NV|[\w/¡¿]+[!?])", re.IGNORECASE)
"""Errors of spreadsheets, in several languages."""
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
MISSING_CODE = 999.0
"""What statistics packages write for a missing value; it lies within the range of a volume."""
EARLIEST_ADMISSION = date(1990, 1, 1)
EXCEL_EPOCH = date(1899, 12, 30)
HINTS = (
    (r"\d{4}-\d{1,2}-\d{1,2}.*|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}.*|\d{1,2}-[a-z]{3}(-\d+)?", "It looks like a date"),
    (r"-?(9|99|999|9999)(\.0)?", "If it stands for a missing value, leave the cell empty"),
    (r".*%", "Write the number without the percent sign, in the unit shown"),
    (r"#null!", "SPSS writes it for a missing value: leave the cell empty"),
    (ERROR.pattern, "It is a formula error"),
    (r"[<>≤≥~≈].*|.*\d\s?[-–]\s?\d.*", "Write a single number"),
    (r"[+-]?\d{1,3}([ .,'’\u00a0]\d{3})+([.,]\d+)?", "Write numbers without thousands separators"),
    (r"[+-]?\d+,\d+", "Write a decimal point: in this file the comma separates cells"),
    (r"[+-]?\d+([.,]\d+)?\s*[^\d\s.,].*", "Write only the number, in the unit shown"),
    (r"(m?tici\s*)?(0|1|2[abc]?|3|i{1,3}|ii[abc])", "Write only the grade, with a lower-case letter"),
    (r"male|man|hombre|h|varon|varón|v|männlich|female|woman|mujer|weiblich|w", "M is male, F is female"),
    (r"y|yes|no|n|s|si|sí|x|ja|nein|pos|neg|positive|negative|verdadero|falso", "Write 1 for yes and 0 for no"),
    (r"l|r|izq.*|der.*|izda|dcha|links|rechts|both|bilateral", "Write left or right"),
    (r"unk.*|unknown|missing|desconocid.|nd|n\.d\.|\?+|-+|\.+", "If the value is unknown, leave the cell empty"),
)
"""Common ways of writing a cell that cannot be read, as patterns, and the advice for each; the first match counts."""


def typed_column(text: pd.Series, variable: Variable, decimal_comma: bool) -> tuple[pd.Series, list[Finding]]:
    """Convert a column to values; a cell that does not fit the variable becomes missing and a finding.

    Args:
        text: cells as text, missing if they mean "no value"; index: patient id, or "" if there is none.
        variable: what the column holds.
        decimal_comma: "70,5" is a number.
    """
    if variable.kind == "text":
        values, fits = text, ~text.str.fullmatch(ERROR).fillna(False).astype(bool)
    elif variable.kind == "date":
        values = _dates(text)
        fits = values.notna()
    elif variable.kind == "categorical" or variable.levels:
        spellings = {level.lower(): level for level in variable.levels}
        spellings |= {f"{level}.0": level for level in variable.levels if level.isdigit()}  # eTICI read as a number
        values = text.map(lambda cell: spellings.get(cell.lower(), cell), na_action="ignore").astype("str")
        fits = values.isin(variable.levels)
    elif variable.kind == "binary":
        values = _numbers(text.str.lower().replace({"true": "1", "false": "0"}), decimal_comma)
        fits = values.isin([0, 1])
    else:
        values = _numbers(text, decimal_comma)
        fits = values.between(variable.low, variable.high) & (values != MISSING_CODE)
        if variable.unit == "points":
            fits &= values % 1 == 0
    wrong = text.notna() & ~fits
    findings = [_finding(str(patient), cell, variable) for patient, cell in text[wrong].items()]
    return values.mask(wrong), findings


def abbreviate(cell: str) -> str:
    """Return a cell as a message shows it: on one line, and at most 40 characters of it."""
    text = " ".join(cell.split())
    return text if len(text) <= 40 else f"{text[:39]}…"


def _finding(patient: str, cell: str, variable: Variable) -> Finding:
    what = f"'{abbreviate(cell)}' is not allowed"
    return Finding(patient or None, variable.name, what, _hint(cell, variable), abbreviate(cell), variable.allowed)


def _hint(cell: str, variable: Variable) -> str | None:
    if variable.kind in ("continuous", "date") and re.fullmatch(r"[234]\d{4}(\.0)?", cell):
        return f"It may be Excel's number for {EXCEL_EPOCH + timedelta(days=int(cell[:5]))}"
    if variable.kind == "date":
        return "Write year, month and day in this order: any other order is ambiguous"
    return next(
        (hint for pattern, hint in HINTS if re.fullmatch(pattern, cell.lower(), re.DOTALL | re.IGNORECASE)), None
    )


def _numbers(text: pd.Series, decimal_comma: bool) -> pd.Series:
    """Convert to float64; NaN if the text is not a number."""
    cells = text
    if decimal_comma:
        cells = cells.mask(cells.str.fullmatch(DECIMAL_COMMA), cells.str.replace(",", "."))
    is_number = cells.str.fullmatch(NUMBER)
    return pd.to_numeric(cells.where(is_number), errors="coerce").astype("float64")


def _dates(text: pd.Series) -> pd.Series:
    """Convert to YYYY-MM-DD, as text; missing if the cell is no such date, or not a possible date of admission."""
    written = text.where(text.str.fullmatch(r"\d{4}-\d\d-\d\d([T ][\d:.+Z-]*)?").fillna(False)).str[:10]
    days = pd.to_datetime(written, format="%Y-%m-%d", errors="coerce")
    within = (days >= pd.Timestamp(EARLIEST_ADMISSION)) & (days <= pd.Timestamp(date.today()))
    return written.where(within).astype("str")
