"""Reading table files: CSV, TSV and XLSX as hospitals write them, every cell as it was written."""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import pandas as pd

from rlvo.cohort.mapping import plain_name, rename_columns
from rlvo.cohort.variables import VARIABLES
from rlvo.errors import CohortError, Finding, RlvoError

if TYPE_CHECKING:
    from openpyxl.cell.cell import Cell
    from openpyxl.workbook import Workbook
    from openpyxl.worksheet.worksheet import Worksheet

Row = tuple[int, list[Any]]
"""Line number and cells of a row that is not empty."""
OLE = b"\xd0\xcf\x11\xe0"
"""The first bytes of old and of encrypted Excel files."""
MAX_BYTES, MAX_CELLS = 300 * 2**20, 5_000_000
"""Unpacked size and number of cells above which a workbook cannot be a cohort table."""
DAMAGED = (
    BadZipFile, KeyError, IndexError, ValueError, TypeError, AttributeError, SyntaxError, RuntimeError, OSError,
    EOFError, zlib.error,
)  # fmt: skip
"""What zipfile and openpyxl raise if a workbook is damaged; XML errors are syntax errors."""
DELIMITERS = (",", ";", "\t", "|")
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
OTHER_FORMATS = {
    OLE: "an old Excel file", b"PK\x03\x04": "a zipped file such as XLSX", b"%PDF": "a PDF file",
    b"\x1f\x8b": "a gzip file", b"<": "a web page or XML",
}  # fmt: skip
"""The first bytes of other formats, which show what a file is, whatever its name."""
FIRST_LINES = 10
"""How many lines are searched for the header."""


@dataclass(frozen=True)
class RawTable:
    """Cells as written, and whether a comma in a number is a decimal comma (it is if it is not the delimiter)."""

    cells: pd.DataFrame
    decimal_comma: bool


def read_table(path: Path, mapping: Mapping[str, str] | None = None) -> RawTable:
    """Read a table file without interpreting its cells.

    Text files: UTF-8, UTF-16 with a byte-order mark, or Latin-1; delimited by comma, semicolon, tab or bar, whichever
    finds most known columns in the header. XLSX: the one sheet whose header names `patient_id`. `mapping` gives their
    names (values) of columns of ours (keys).

    Raises:
        RlvoError: the file is missing, empty, damaged or of another format, or the mapping does not fit.
        CohortError: lists all ragged rows, duplicate or unnamed columns, merged cells and formulas without a value.
    """
    if not path.is_file():
        raise RlvoError("no such cohort table", where=path, fix="Give the path of a CSV, TSV or XLSX file")
    mapping = mapping or {}
    patient_id = plain_name(mapping.get("patient_id", "patient_id"))
    known = _KnownColumns({*VARIABLES, *map(plain_name, mapping.values())}, patient_id)
    suffix = path.suffix.lower()
    if suffix not in (".xlsx", ".csv", ".tsv", ".txt"):
        what = f"'{path.suffix}' is not a table format that rlvo reads"
        raise RlvoError(what, where=path, fix="Save it as CSV, TSV or XLSX")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RlvoError(f"cannot be read ({error.strerror})", where=path, fix="Check its permissions") from None
    if suffix == ".xlsx":
        rows, decimal_comma = _workbook_rows(content, path, known), True
    else:
        rows, decimal_comma = _text_rows(_decoded(content, path), path, known)
    return RawTable(_frame(rows, path, mapping, known), decimal_comma)


@dataclass(frozen=True)
class _KnownColumns:
    """Names that the table's columns may have, among them that of the patients' ids."""

    names: set[str]
    patient_id: str

    def is_header(self, cells: Iterable[object]) -> bool:
        return self.patient_id in map(plain_name, cells)


def _text_rows(text: str, path: Path, known: _KnownColumns) -> tuple[list[Row], bool]:
    """Return the rows, and whether the comma is free for decimals."""

    def header_match(delimiter: str) -> tuple[int, int]:
        """Return how many known columns the best of the first lines names if split so, and its number of columns."""
        first = zip(range(FIRST_LINES), _parsed(text, delimiter, strict=False), strict=False)
        matches = ((len(known.names & {*map(plain_name, cells)}), len(cells)) for _, (_, cells) in first)
        return max(matches, default=(0, 0))

    try:
        delimiter = max(DELIMITERS, key=header_match)
        return list(_parsed(text, delimiter, strict=True)), delimiter != ","
    except csv.Error as error:
        raise RlvoError(f"not readable as a delimited table: {error}", where=path, fix="Save it again as CSV") from None


def _decoded(content: bytes, path: Path) -> str:
    if other := next((name for start, name in OTHER_FORMATS.items() if content.lstrip().startswith(start)), None):
        raise RlvoError(f"the file is {other}, not a text table", where=path, fix="Save it as UTF-8 CSV")
    marked = next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)
    try:
        text = content.decode(marked or "utf-8")
    except UnicodeDecodeError:
        if marked:
            name = marked.removesuffix("-sig").upper()
            what = f"the file starts with a {name} mark but is not valid {name}"
            raise RlvoError(what, where=path, fix="Save it again as UTF-8 CSV") from None
        text = content.decode("latin-1")
    if "\0" in text:
        raise RlvoError("the file holds binary data, not a table", where=path, fix="Save it as UTF-8 CSV")
    return text


def _parsed(text: str, delimiter: str, *, strict: bool) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict, skipinitialspace=True)
    for row in reader:
        if any(cell.strip() for cell in row):
            yield reader.line_num, list(row)


def _workbook_rows(content: bytes, path: Path, known: _KnownColumns) -> list[Row]:
    """Return the rows of the one sheet with a header, or of the only sheet; empty cells are ""."""
    if content.startswith(OLE):
        is_encrypted = "EncryptedPackage".encode("utf-16-le") in content
        kind = "protected by a password" if is_encrypted else "an old Excel file (XLS) named XLSX"
        raise RlvoError(f"the file is {kind}", where=path, fix="Save it again as XLSX, without a password")
    book = _opened(content, path, values=True)
    filled = [sheet for sheet in book.worksheets if sheet.max_row > 1 or sheet.cell(1, 1).value is not None]
    if large := [sheet for sheet in filled if sheet.max_row * sheet.max_column > MAX_CELLS]:
        what = f"the sheet '{large[0].title}' extends to cell {large[0].dimensions.rpartition(':')[2]}"
        raise RlvoError(what, where=path, fix="Delete the empty rows and columns after the table")
    rows = {sheet.title: _rows(sheet) for sheet in filled}
    cohorts = [s for s in filled if any(known.is_header(cells) for _, cells in rows[s.title][:FIRST_LINES])] or filled
    if len(cohorts) != 1:
        names = ", ".join(sheet.title for sheet in cohorts) or "none"
        what = f"it is unclear which sheet is the cohort ({names})"
        raise RlvoError(what, where=path, fix="Keep one sheet with a patient_id column")
    (sheet,) = cohorts
    what = "are merged, so it is unclear which rows and columns the value belongs to"
    findings = [Finding(None, f"cells {cells}", what, "Unmerge them") for cells in sheet.merged_cells.ranges]
    findings += _uncalculated(sheet, content, path)
    if findings:
        raise CohortError(findings, where=path)
    return rows[sheet.title]


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


def _rows(sheet: Worksheet) -> list[Row]:
    rows = enumerate(([_written(cell) for cell in cells] for cells in sheet.iter_rows()), start=1)
    return [(number, cells) for number, cells in rows if any(str(cell).strip() for cell in cells)]


def _written(cell: Cell) -> Any:
    """Return the value, with the percent sign that the user sees: 0.55 formatted as a percentage is "55%"."""
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
    fix = "Open the file in a spreadsheet and save it"
    formulas = _opened(content, path, values=False)[sheet.title]
    return [
        Finding(None, f"cell {cell.coordinate}", "holds a formula without a value", fix)
        for cells in formulas.iter_rows()
        for cell in cells
        if cell.data_type == "f" and sheet[cell.coordinate].value is None
    ]


def _frame(rows: list[Row], path: Path, mapping: Mapping[str, str], known: _KnownColumns) -> pd.DataFrame:
    headers = [number for number, cells in rows[:FIRST_LINES] if known.is_header(cells)]
    if headers and not known.is_header(rows[0][1]):
        what = f"the column names are in line {headers[0]}, below other lines"
        raise RlvoError(what, where=path, fix="Keep one header line with nothing above it")
    if len(rows) < 2:
        raise RlvoError("the table holds no patients", where=path, fix="Write a header line and one line per patient")
    (_, header), *body = rows
    names = [plain_name(cell) for cell in header]
    fix = "Quote cells that contain the delimiter; remove notes and totals below the table"
    findings = [
        Finding(None, f"line {number}", f"{len(cells)} cells, but the header has {len(names)}", fix)
        for number, cells in body
        if len(cells) != len(names)
    ]
    findings += [
        Finding(None, name, "more than one column has this name", "Rename or remove the others")
        for name in sorted(set(names))
        if name and names.count(name) > 1
    ]
    # Spreadsheets export empty columns, which are dropped; a column with cells but no name may be anything.
    unnamed = [i for i, name in enumerate(names) if not name]
    findings += [
        Finding(None, f"column {i + 1}", "has cells but no name", "Name it or remove it")
        for i in unnamed
        if any(str(cells[i]).strip() for _, cells in body if len(cells) == len(names))
    ]
    if findings:
        raise CohortError(findings, where=path)
    frame = pd.DataFrame([cells for _, cells in body], columns=range(len(names)), dtype=object)
    kept = [name for name in names if name]
    return frame.drop(columns=unnamed).set_axis(rename_columns(kept, mapping, path), axis=1)
