"""The worksheets of an XLSX file: cells with their number formats, and what is hidden, merged or not calculated.

They are taken from openpyxl's parser: its own cell objects take twice the time and three times the memory.
"""

from __future__ import annotations

import io
import zlib
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import BadZipFile, ZipFile

from rlvo.errors import RlvoError

if TYPE_CHECKING:
    from openpyxl.worksheet._read_only import ReadOnlyWorksheet

MAX_BYTES, MAX_CELLS = 300 * 2**20, 5_000_000
"""Unpacked size and number of cells above which a workbook cannot be a cohort table."""
DAMAGED = (
    BadZipFile, KeyError, IndexError, ValueError, TypeError, AttributeError, SyntaxError, RuntimeError, OSError,
    EOFError, zlib.error,
)  # fmt: skip
"""What zipfile and openpyxl raise if a workbook is damaged; XML errors are syntax errors."""


class Cell(NamedTuple):
    """What a cell holds (None: nothing), and its number format."""

    value: Any
    number_format: str


EMPTY = Cell(None, "General")


@dataclass(frozen=True)
class Sheet:
    """A worksheet."""

    title: str
    is_visible: bool
    rows: list[tuple[int, list[Cell]]]
    """Number and cells of every row that holds something; all are equally wide."""
    merged: list[str]
    hidden_rows: set[int]
    hidden_columns: list[tuple[int, int]]
    """The first and the last of columns that are hidden."""
    uncalculated: list[str]
    """Cells with a formula and no value."""


def read_sheets(content: bytes, path: Path) -> list[Sheet]:
    """Read the worksheets of a workbook. Raises RlvoError if it is damaged or too large."""
    import openpyxl

    try:
        with ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise RlvoError("too large for a cohort table", where=path, fix="Keep one sheet, without pictures")
            with closing(openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)) as book:
                return [_read_sheet(sheet, archive, path) for sheet in book.worksheets]
    except DAMAGED as error:
        what = f"not a readable XLSX file ({' '.join(str(error).split())})"
        raise RlvoError(what, where=path, fix="Save it again as XLSX or CSV") from None


def cell_name(row: int, column: int) -> str:
    """Return what spreadsheets call a cell: "B3"."""
    from openpyxl.utils import get_column_letter

    return f"{get_column_letter(column)}{row}"


def _read_sheet(sheet: ReadOnlyWorksheet, archive: ZipFile, path: Path) -> Sheet:
    from openpyxl.cell.read_only import ReadOnlyCell
    from openpyxl.worksheet._reader import FORMULA_TAG, WorkSheetParser

    uncalculated: list[str] = []

    class Parser(WorkSheetParser):  # type: ignore[misc]  # a private class, without types
        def parse_cell(self, element: Any) -> dict[str, Any]:
            cell: dict[str, Any] = super().parse_cell(element)
            # a calculated text may be empty
            if cell["value"] is None and element.get("t") != "str" and element.find(FORMULA_TAG) is not None:
                uncalculated.append(cell_name(cell["row"], cell["column"]))
            return cell

    @cache
    def number_format(style: int) -> str:
        return str(ReadOnlyCell(sheet, 1, 1, None, style_id=style).number_format)

    book, rows, height, width = sheet.parent, dict[int, list[Cell]](), 0, 0
    with archive.open(sheet._worksheet_path) as source:
        formats = {"date_formats": book._date_formats, "timedelta_formats": book._timedelta_formats}
        parser = Parser(source, sheet._shared_strings, data_only=True, epoch=book.epoch, **formats)
        for _, cells in parser.parse():
            for cell in cells:
                number, column, value = cell["row"], cell["column"], cell["value"]
                height, width = max(height, number), max(width, column)
                if height * width > MAX_CELLS:
                    what = f"the sheet '{sheet.title}' extends to cell {cell_name(height, width)}"
                    raise RlvoError(what, where=path, fix="Delete the empty rows and columns after the table")
                if value is not None:
                    row = rows.setdefault(number, [])
                    row += [EMPTY] * (column - len(row))
                    row[column - 1] = Cell(value, number_format(cell["style_id"]))
    filled = [(number, row) for number, row in sorted(rows.items()) if any(map(_is_filled, row))]
    for _, row in filled:
        row += [EMPTY] * (width - len(row))
    return Sheet(
        title=sheet.title,
        is_visible=sheet.sheet_state == "visible",
        rows=filled,
        merged=[each.ref for each in parser.merged_cells.mergeCell] if parser.merged_cells else [],
        hidden_rows={int(number) for number, row in parser.row_dimensions.items() if _is_hidden(row)},
        hidden_columns=[
            (int(each["min"]), int(each["max"])) for each in parser.column_dimensions.values() if _is_hidden(each)
        ],
        uncalculated=uncalculated,
    )


def _is_filled(cell: Cell) -> bool:
    return cell.value is not None and bool(str(cell.value).strip())


def _is_hidden(attributes: dict[str, str]) -> bool:
    return attributes.get("hidden", "0") not in ("0", "false")
