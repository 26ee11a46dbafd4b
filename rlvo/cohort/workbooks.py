"""Reading XLSX workbooks: every cell as a person saw it; what nobody saw, or could be seen otherwise, is a finding."""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from rlvo.cohort.cells import NUMBER
from rlvo.cohort.mapping import KnownColumns, plain_name
from rlvo.cohort.number_formats import shown_number
from rlvo.cohort.sheets import Cell, Sheet, cell_name, read_sheets
from rlvo.cohort.variables import Variable
from rlvo.errors import CohortError, Finding, RlvoError

Row = tuple[int, list[Any]]
"""Line number and cells of a row that is not empty."""
FIRST_LINES = 10
"""How many lines are searched for the header."""
OLE = b"\xd0\xcf\x11\xe0"
"""The first bytes of old and of encrypted Excel files."""
MAX_EXACT = 10**15
"""A spreadsheet keeps 15 digits of a number."""
UNITS = {
    "years": r"y|yrs?|years?|años?|ans?|jahre?|anni|anos?",
    "mL": r"ml|cc|cm[3³]",
    "points": r"points?|pts?",
}
"""How number formats spell the units of columns."""
AS_TEXT = "Format the column as text and enter the id or name again"


def workbook_rows(content: bytes, path: Path, known: KnownColumns) -> list[Row]:
    """Return the rows of the one visible sheet with a header, or of the only sheet; empty cells are "".

    A number is the text that its format shows if that is more than rounding: `007`, `55%`, `120 L`. The unit of the
    column may be shown.

    Raises:
        RlvoError: the workbook is damaged or protected, or it is unclear which sheet is meant.
        CohortError: lists merged cells, formulas without a value, hidden rows and columns, and cells of known columns
            that do not show what they hold.
    """
    if content.startswith(OLE):
        is_encrypted = "EncryptedPackage".encode("utf-16-le") in content
        kind = "protected by a password" if is_encrypted else "an old Excel file (XLS) named XLSX"
        raise RlvoError(f"the file is {kind}", where=path, fix="Save it again as XLSX, without a password")
    sheet = _cohort_sheet(read_sheets(content, path), path, known)
    header = [known.variables.get(plain_name(cell.value)) for cell in sheet.rows[0][1]] if sheet.rows else []
    what = "are merged, so it is unclear which rows and columns the value belongs to"
    findings = [Finding(None, f"cells {merged}", what, "Unmerge them") for merged in sheet.merged]
    what, fix = "holds a formula without a value", "Open the file in a spreadsheet and save it"
    findings += [Finding(None, f"cell {cell}", what, fix) for cell in sheet.uncalculated]
    findings += _hidden(sheet, header)
    rows: list[Row] = []
    for number, row in sheet.rows:
        shown = list(map(_shown, row, header))
        for column, (cell, variable) in enumerate(zip(row, header, strict=True), start=1):
            if rows and variable and cell.value is not None and not isinstance(cell.value, str):
                where = f"cell {cell_name(number, column)}, {variable.name}"
                found = _unlike_shown(cell, variable, shown[column - 1])
                findings += [Finding(None, where, what, fix) for what, fix in found]
        rows.append((number, shown))
    if findings:
        raise CohortError(findings, where=path)
    return rows


def _cohort_sheet(sheets: Sequence[Sheet], path: Path, known: KnownColumns) -> Sheet:
    filled = [sheet for sheet in sheets if sheet.rows]

    def has_header(sheet: Sheet) -> bool:
        return any(known.is_header([cell.value for cell in row]) for _, row in sheet.rows[:FIRST_LINES])

    cohorts = [sheet for sheet in filled if has_header(sheet)] or filled
    visible = [sheet for sheet in cohorts if sheet.is_visible]
    if cohorts and not visible:
        what = f"the sheet '{cohorts[0].title}' is hidden, and no other names patients"
        raise RlvoError(what, where=path, fix="Show the sheet, if it is the cohort")
    if len(visible) != 1:
        names = ", ".join(sheet.title for sheet in visible) or "none"
        what = f"it is unclear which sheet is the cohort ({names})"
        raise RlvoError(what, where=path, fix="Keep one sheet with a patient_id column")
    return visible[0]


def _shown(cell: Cell, variable: Variable | None) -> Any:
    """Return the value, or the text that is shown for it if that means something else in the column."""
    value = cell.value
    if value is None:
        return ""
    if not _is_number(value) or (text := shown_number(value, cell.number_format)) is None:
        return value
    if variable is None or variable.kind == "text":
        return text
    unit = UNITS.get(variable.unit or "") or re.escape((variable.unit or "").strip("%")) or "(?!)"
    number = re.sub(rf"\s*({unit})\.?$", "", text, flags=re.IGNORECASE)
    if not re.fullmatch(NUMBER, number):
        return text
    return value if abs(float(number) - value) <= 0.5 * 10 ** -len(number.partition(".")[2]) + 1e-9 else text


def _unlike_shown(cell: Cell, variable: Variable, shown: Any) -> Iterator[tuple[str, str]]:
    """Say what a cell holds of which a person saw something else, and how to fix it."""
    value = cell.value
    if isinstance(value, date | time | timedelta):
        if variable.kind == "text":
            day = value.date() if isinstance(value, datetime) and value.time() == time() else value
            yield f"is the date or time {day}: a spreadsheet makes one of ids like 3-5", AS_TEXT
        elif variable.kind == "date" and isinstance(value, date):
            parts = re.sub(r'"[^"]*"|\[[^\]]*\]|\\.', "", cell.number_format.lower())
            hidden = [name for name in ("year", "month", "day") if name[0] not in parts]
            if "year" in hidden or ("day" in hidden and value.day == 1):
                absent = " and no ".join(hidden)
                what = f"holds {value:%Y-%m-%d} but shows no {absent}, which the spreadsheet may have added"
                yield what, "Format the column as YYYY-MM-DD, and check the dates"
        return
    if not _is_number(value):
        return
    if shown == "":
        yield f"holds {value:g} but shows nothing", "Change its number format, or empty it"
    elif variable.kind != "text" and isinstance(shown, str) and re.fullmatch(NUMBER, shown):
        yield f"holds {value:g} but shows {shown}", "Change its number format"
    if variable.kind != "text":
        return
    if abs(value) >= MAX_EXACT:
        yield f"{value:.0f} has more digits than the 15 that a spreadsheet keeps", AS_TEXT
    elif value % 1 and re.fullmatch(r"-?\d+", str(shown)):
        yield f"holds {value:.15g} but shows {shown}", AS_TEXT


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _hidden(sheet: Sheet, header: Sequence[Variable | None]) -> Iterator[Finding]:
    """Find rows, and columns that rlvo knows, which are hidden but not empty."""
    for rows in _ranges(number for number, _ in sheet.rows if number in sheet.hidden_rows):
        fix = "Show them (a filter may hide them), or delete them"
        yield Finding(None, rows, "hidden, so it is unclear whether the cohort includes it", fix)
    for first, last in sheet.hidden_columns:
        for at in range(first, min(last, len(header)) + 1):
            if variable := header[at - 1]:
                where = f"column {cell_name(1, at)[:-1]}, {variable.name}"
                yield Finding(None, where, "is hidden, so nobody saw what would be used", "Show it, or delete it")


def _ranges(numbers: Iterable[int]) -> list[str]:
    """Name rows of ascending numbers: 3, 5, 6, 7 become "row 3" and "rows 5-7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [f"rows {run[0]}-{run[-1]}" if len(run) > 1 else f"row {run[0]}" for run in runs]
