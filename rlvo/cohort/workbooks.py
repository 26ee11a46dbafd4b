"""Reading XLSX workbooks: every cell as a person saw it; what nobody saw, or could be seen otherwise, is a finding."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

from rlvo.cohort.cells import NUMBER
from rlvo.cohort.mapping import KnownColumns, plain_name
from rlvo.cohort.number_formats import shown_number
from rlvo.cohort.variables import Variable
from rlvo.errors import CohortError, Finding, RlvoError

if TYPE_CHECKING:
    from openpyxl.cell.cell import Cell
    from openpyxl.workbook import Workbook
    from openpyxl.worksheet.worksheet import Worksheet

Row = tuple[int, list[Any]]
"""Line number and cells of a row that is not empty."""
FIRST_LINES = 10
"""How many lines are searched for the header."""
OLE = b"\xd0\xcf\x11\xe0"
"""The first bytes of old and of encrypted Excel files."""
MAX_BYTES, MAX_CELLS = 300 * 2**20, 5_000_000
"""Unpacked size and number of cells above which a workbook cannot be a cohort table."""
MAX_EXACT = 10**15
"""A spreadsheet keeps 15 digits of a number."""
DAMAGED = (
    BadZipFile, KeyError, IndexError, ValueError, TypeError, AttributeError, SyntaxError, RuntimeError, OSError,
    EOFError, zlib.error,
)  # fmt: skip
"""What zipfile and openpyxl raise if a workbook is damaged; XML errors are syntax errors."""
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
    sheet = _cohort_sheet(_opened(content, path, values=True), path, known)
    cells = [(number, row) for number, row in enumerate(sheet.iter_rows(), start=1) if any(map(_is_filled, row))]
    header = [known.variables.get(plain_name(cell.value)) for cell in cells[0][1]] if cells else []
    what = "are merged, so it is unclear which rows and columns the value belongs to"
    findings = [Finding(None, f"cells {merged}", what, "Unmerge them") for merged in sheet.merged_cells.ranges]
    findings += _uncalculated(sheet, content, path)
    findings += _hidden(sheet, cells, header)
    for _, row in cells[1:]:
        for cell, variable in zip(row, header, strict=True):
            findings += _unlike_shown(cell, variable) if variable else ()
    if findings:
        raise CohortError(findings, where=path)
    return [(number, list(map(_shown, row, header))) for number, row in cells]


def _opened(content: bytes, path: Path, *, values: bool) -> Workbook:
    import openpyxl

    try:
        with ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise RlvoError("too large for a cohort table", where=path, fix="Keep one sheet, without pictures")
        return openpyxl.load_workbook(io.BytesIO(content), data_only=values)
    except DAMAGED as error:
        what = f"not a readable XLSX file ({' '.join(str(error).split())})"
        raise RlvoError(what, where=path, fix="Save it again as XLSX or CSV") from None


def _cohort_sheet(book: Workbook, path: Path, known: KnownColumns) -> Worksheet:
    filled = [sheet for sheet in book.worksheets if sheet.max_row > 1 or sheet.cell(1, 1).value is not None]
    if large := [sheet for sheet in filled if sheet.max_row * sheet.max_column > MAX_CELLS]:
        what = f"the sheet '{large[0].title}' extends to cell {large[0].dimensions.rpartition(':')[2]}"
        raise RlvoError(what, where=path, fix="Delete the empty rows and columns after the table")

    def has_header(sheet: Worksheet) -> bool:
        first = (row for row in sheet.iter_rows(values_only=True) if any(cell not in (None, "") for cell in row))
        return any(known.is_header(row) for _, row in zip(range(FIRST_LINES), first, strict=False))

    cohorts = [sheet for sheet in filled if has_header(sheet)] or filled
    visible = [sheet for sheet in cohorts if sheet.sheet_state == "visible"]
    if cohorts and not visible:
        what = f"the sheet '{cohorts[0].title}' is hidden, and no other names patients"
        raise RlvoError(what, where=path, fix="Show the sheet, if it is the cohort")
    if len(visible) != 1:
        names = ", ".join(sheet.title for sheet in visible) or "none"
        what = f"it is unclear which sheet is the cohort ({names})"
        raise RlvoError(what, where=path, fix="Keep one sheet with a patient_id column")
    return visible[0]


def _is_filled(cell: Cell) -> bool:
    return cell.value is not None and bool(str(cell.value).strip())


def _shown(cell: Cell, variable: Variable | None) -> Any:
    """Return the value, or the text that is shown for it if that means something else in the column."""
    value = cell.value
    if value is None:
        return ""
    if not _is_number(value) or (text := shown_number(value, cell.number_format)) is None:
        return value
    if variable is None or variable.kind == "text":
        return text
    number = re.sub(rf"\s*({UNITS.get(variable.unit or '', '(?!)')})\.?$", "", text, flags=re.IGNORECASE)
    if not re.fullmatch(NUMBER, number):
        return text
    return value if abs(float(number) - value) <= 0.5 * 10 ** -len(number.partition(".")[2]) + 1e-9 else text


def _unlike_shown(cell: Cell, variable: Variable) -> Iterator[Finding]:
    """Find a cell of which a person saw something else than it holds."""
    value, where = cell.value, f"cell {cell.coordinate}, {variable.name}"
    if isinstance(value, date | time | timedelta):
        if variable.kind == "text":
            day = value.date() if isinstance(value, datetime) and value.time() == time() else value
            yield Finding(None, where, f"is the date or time {day}: a spreadsheet makes one of ids like 3-5", AS_TEXT)
        elif variable.kind == "date" and isinstance(value, date):
            shown = re.sub(r'"[^"]*"|\[[^\]]*\]|\\.', "", cell.number_format.lower())
            hidden = [name for name in ("year", "month", "day") if name[0] not in shown]
            if "year" in hidden or ("day" in hidden and value.day == 1):
                absent = " and no ".join(hidden)
                what = f"holds {value:%Y-%m-%d} but shows no {absent}, which the spreadsheet may have added"
                yield Finding(None, where, what, "Format the column as YYYY-MM-DD, and check the dates")
        return
    if not _is_number(value):
        return
    shown = _shown(cell, variable)
    if shown == "":
        yield Finding(None, where, f"holds {value:g} but shows nothing", "Change its number format, or empty it")
    elif variable.kind != "text" and isinstance(shown, str) and re.fullmatch(NUMBER, shown):
        yield Finding(None, where, f"holds {value:g} but shows {shown}", "Change its number format")
    if variable.kind != "text":
        return
    if abs(value) >= MAX_EXACT:
        yield Finding(None, where, f"{value:.0f} has more digits than the 15 that a spreadsheet keeps", AS_TEXT)
    elif value % 1 and re.fullmatch(r"-?\d+", str(shown)):
        yield Finding(None, where, f"holds {value:.15g} but shows {shown}", AS_TEXT)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _hidden(
    sheet: Worksheet, cells: Sequence[tuple[int, Sequence[Cell]]], header: Sequence[Variable | None]
) -> Iterator[Finding]:
    """Find rows, and columns that rlvo knows, which are hidden but not empty."""
    from openpyxl.utils import get_column_letter

    hidden = {number for number, row in sheet.row_dimensions.items() if row.hidden}
    for rows in _ranges(number for number, _ in cells if number in hidden):
        fix = "Show them (a filter may hide them), or delete them"
        yield Finding(None, rows, "hidden, so it is unclear whether the cohort includes it", fix)
    for column in sheet.column_dimensions.values():
        column.reindex()
        for at in range(column.min, min(column.max, len(header)) + 1) if column.hidden else ():
            if variable := header[at - 1]:
                where = f"column {get_column_letter(at)}, {variable.name}"
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


def _uncalculated(sheet: Worksheet, content: bytes, path: Path) -> list[Finding]:
    with ZipFile(io.BytesIO(content)) as archive:
        parts = [name for name in archive.namelist() if name.startswith("xl/worksheets/")]
        if not any(re.search(rb"<f[ >]", archive.read(name)) for name in parts):
            return []
    fix = "Open the file in a spreadsheet and save it"
    formulas = _opened(content, path, values=False)[sheet.title]
    return [
        Finding(None, f"cell {cell.coordinate}", "holds a formula without a value", fix)
        for cells in formulas.iter_rows()
        for cell in cells
        if cell.data_type == "f" and _is_uncalculated(sheet[cell.coordinate])
    ]


def _is_uncalculated(value: Cell) -> bool:
    return value.value is None and value.data_type != "str"  # a calculated text may be empty
