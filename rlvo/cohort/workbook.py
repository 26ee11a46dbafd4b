"""The cells of an XLSX sheet, and what spreadsheets do to them: merged cells, formulas without a value, encryption."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

from rlvo.errors import CohortError, Finding, RlvoError

if TYPE_CHECKING:
    from openpyxl.cell.cell import Cell
    from openpyxl.workbook import Workbook
    from openpyxl.worksheet.worksheet import Worksheet

Row = tuple[int, list[Any]]
"""Line number and cells of a row that is not empty."""
OLE = b"\xd0\xcf\x11\xe0"
"""How old Excel files begin, and encrypted ones."""
MAX_BYTES, MAX_CELLS = 300 * 2**20, 5_000_000
"""Unpacked size and extent of a workbook beyond which it is no cohort table."""
DAMAGED = (
    BadZipFile, KeyError, IndexError, ValueError, TypeError, AttributeError, SyntaxError, RuntimeError, OSError,
    EOFError, zlib.error,
)  # fmt: skip
"""What zipfile and openpyxl raise for a damaged workbook; XML errors are syntax errors."""


def workbook_rows(path: Path, content: bytes, is_header: Callable[[Iterable[object]], bool]) -> list[Row]:
    """Rows of the one sheet with a line that `is_header`, or of the only sheet; empty cells are "".

    Args:
        path: for messages.
        content: the file's bytes.
        is_header: whether a row's cells name the columns of a cohort.

    Raises:
        RlvoError: not a workbook, too large, or no sheet or several that may be the cohort.
        CohortError: merged cells and formulas that were never calculated; all at once.
    """
    _check_not_ole(content, path)
    book = _opened(content, path, values=True)
    filled = [sheet for sheet in book.worksheets if sheet.max_row > 1 or sheet.cell(1, 1).value is not None]
    if large := [sheet for sheet in filled if sheet.max_row * sheet.max_column > MAX_CELLS]:
        raise RlvoError(
            f"the sheet '{large[0].title}' reaches to cell {large[0].dimensions.rpartition(':')[2]}",
            where=path,
            fix="Delete the empty rows and columns after the table",
        )
    rows = {sheet.title: _rows(sheet) for sheet in filled}
    cohorts = [s for s in filled if any(is_header(cells) for _, cells in rows[s.title][:10])] or filled
    if len(cohorts) != 1:
        names = ", ".join(sheet.title for sheet in cohorts) or "none"
        raise RlvoError(
            f"which sheet is the cohort? ({names})", where=path, fix="Keep one sheet with a patient_id column"
        )
    (sheet,) = cohorts
    findings = [
        Finding(None, f"cells {merged}", "are merged: which rows and columns does the value belong to?", "Unmerge them")
        for merged in map(str, sheet.merged_cells.ranges)
    ]
    findings += _uncalculated(sheet, content, path)
    if findings:
        raise CohortError(findings, where=path)
    return rows[sheet.title]


def _check_not_ole(content: bytes, path: Path) -> None:
    if content.startswith(OLE):
        is_encrypted = "EncryptedPackage".encode("utf-16-le") in content
        what = "is protected by a password" if is_encrypted else "is an old Excel file (XLS) named XLSX"
        raise RlvoError(what, where=path, fix="Save it again as XLSX, without a password")


def _opened(content: bytes, path: Path, *, values: bool) -> Workbook:
    import openpyxl

    try:
        with ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise RlvoError("too large for a cohort table", where=path, fix="Keep one sheet, without pictures")
        return openpyxl.load_workbook(io.BytesIO(content), data_only=values)
    except DAMAGED as error:
        reason = " ".join(str(error).split())
        what = f"not a readable XLSX file ({reason})"
        raise RlvoError(what, where=path, fix="Save it again as XLSX or CSV") from None


def _rows(sheet: Worksheet) -> list[Row]:
    numbered = enumerate(sheet.iter_rows(), start=1)
    rows = [(number, [_written(cell) for cell in cells]) for number, cells in numbered]
    return [(number, cells) for number, cells in rows if any(str(cell).strip() for cell in cells)]


def _written(cell: Cell) -> Any:
    """The value, with the percent sign that the user sees: 0.55 formatted as a percentage is "55%"."""
    if cell.value is None:
        return ""
    if isinstance(cell.value, int | float) and "%" in cell.number_format:
        return f"{cell.value * 100:g}%"
    return cell.value


def _uncalculated(sheet: Worksheet, content: bytes, path: Path) -> list[Finding]:
    with ZipFile(io.BytesIO(content)) as archive:
        parts = [name for name in archive.namelist() if name.startswith("xl/worksheets/")]
        if not any(re.search(rb"<f[ >]", archive.read(name)) for name in parts):
            return []
    formulas = _opened(content, path, values=False)[sheet.title]
    return [
        Finding(None, f"cell {cell.coordinate}", "holds a formula without a value", "Open it in a spreadsheet and save")
        for cells in formulas.iter_rows()
        for cell in cells
        if cell.data_type == "f" and sheet[cell.coordinate].value is None
    ]
