"""Table files to text: CSV, TSV and XLSX as hospitals write them, every cell as it was written."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rlvo.cohort.mapping import plain_name, renamed
from rlvo.cohort.variables import VARIABLES
from rlvo.cohort.workbook import OLE, Row, workbook_rows
from rlvo.errors import CohortError, Finding, RlvoError

DELIMITERS = (",", ";", "\t", "|")
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
OTHER_FORMATS = {
    OLE: "an old Excel file", b"PK\x03\x04": "a zipped file such as XLSX", b"%PDF": "a PDF file",
    b"\x1f\x8b": "a gzip file", b"<": "a web page or XML",
}  # fmt: skip
"""What a file is, by how it begins, whatever its name says."""
LINES_BEFORE_HEADER = 10


@dataclass(frozen=True)
class RawTable:
    """Cells as written, columns named, and whether a comma can be a decimal comma (it is not the delimiter)."""

    cells: pd.DataFrame
    decimal_comma: bool


def read_table(path: Path, mapping: Mapping[str, str] | None = None) -> RawTable:
    """Read a table file without interpreting its cells.

    Text files: UTF-8, UTF-16 with a byte-order mark, or Latin-1; delimiter comma, semicolon, tab or bar, the one that
    makes the header name most known columns. XLSX: the one sheet whose header names `patient_id`.

    Args:
        path: the file.
        mapping: our column name to theirs, for columns that are named otherwise.

    Raises:
        RlvoError: missing, empty, of another format, or damaged; a mapping that does not fit.
        CohortError: ragged rows, duplicate or unnamed columns, merged cells, formulas without a value; all at once.
    """
    if not path.is_file():
        raise RlvoError("no such cohort table", where=path, fix="Name a CSV, TSV or XLSX file")
    mapping = mapping or {}
    known = _Known(
        {*VARIABLES, *map(plain_name, mapping.values())}, plain_name(mapping.get("patient_id", "patient_id"))
    )
    suffix = path.suffix.lower()
    if suffix == ".xlsx":
        rows, decimal_comma = workbook_rows(path, _content(path), known.is_header), True
    elif suffix in (".csv", ".tsv", ".txt"):
        rows, decimal_comma = _text_rows(path, known)
    else:
        raise RlvoError(
            f"'{path.suffix}' is not a table format rlvo reads", where=path, fix="Save it as CSV, TSV or XLSX"
        )
    return RawTable(_frame(rows, path, mapping, known), decimal_comma)


@dataclass(frozen=True)
class _Known:
    """Names that the table's columns may have, and that of the patients' ids."""

    names: set[str]
    patient: str

    def is_header(self, cells: Iterable[object]) -> bool:
        return self.patient in map(plain_name, cells)

    def count(self, cells: Iterable[object]) -> int:
        return len(set(map(plain_name, cells)) & self.names)


def _text_rows(path: Path, known: _Known) -> tuple[list[Row], bool]:
    """Rows, and whether the delimiter leaves the comma free."""
    text = _decoded(path)
    try:
        delimiter = max(DELIMITERS, key=lambda delimiter: _promise(text, delimiter, known))
        return list(_parsed(text, delimiter, strict=True)), delimiter != ","
    except csv.Error as error:
        raise RlvoError(f"not readable as a delimited table: {error}", where=path, fix="Save it again as CSV") from None


def _promise(text: str, delimiter: str, known: _Known) -> tuple[int, int]:
    """How many known columns the best of the first lines names when parsed with `delimiter`, and of how many."""
    first = zip(range(LINES_BEFORE_HEADER), _parsed(text, delimiter, strict=False), strict=False)
    return max(((known.count(cells), len(cells)) for _, (_, cells) in first), default=(0, 0))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RlvoError(f"cannot be read ({error.strerror})", where=path, fix="Check its permissions") from None


def _decoded(path: Path) -> str:
    content = _content(path)
    if other := next((name for start, name in OTHER_FORMATS.items() if content.lstrip().startswith(start)), None):
        raise RlvoError(f"holds {other}, not a text table", where=path, fix="Save it as UTF-8 CSV")
    marked = next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)
    for encoding in [marked] if marked else ["utf-8", "latin-1"]:
        with suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            break
    else:
        raise RlvoError(f"begins as {marked} and does not go on so", where=path, fix="Save it again as UTF-8 CSV")
    if "\0" in text:
        raise RlvoError("holds binary data, not a table", where=path, fix="Save it as UTF-8 CSV")
    return text


def _parsed(text: str, delimiter: str, *, strict: bool) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict, skipinitialspace=True)
    for row in reader:
        if any(cell.strip() for cell in row):
            yield reader.line_num, list(row)


def _frame(rows: list[Row], path: Path, mapping: Mapping[str, str], known: _Known) -> pd.DataFrame:
    _check_header_is_first(rows, path, known)
    if len(rows) < 2:
        raise RlvoError("holds no patients", where=path, fix="A header line and one line a patient are needed")
    (_, header), *body = rows
    names = [plain_name(cell) for cell in header]
    findings = [
        Finding(
            None,
            f"line {number}",
            f"{len(cells)} cells where the header has {len(names)}",
            "Quote cells that hold the delimiter; remove notes and totals below the table",
        )
        for number, cells in body
        if len(cells) != len(names)
    ]
    findings += [
        Finding(None, name, "names more than one column")
        for name in sorted(set(names))
        if name and names.count(name) > 1
    ]
    # Spreadsheets export empty columns; one that holds cells but no name may be anything.
    unnamed = [i for i, name in enumerate(names) if not name]
    findings += [
        Finding(None, f"column {i + 1}", "has no name", "Name it or remove it")
        for i in unnamed
        if any(str(cells[i]).strip() for _, cells in body if len(cells) == len(names))
    ]
    if findings:
        raise CohortError(findings, where=path)
    frame = pd.DataFrame([cells for _, cells in body], columns=range(len(names)), dtype=object)
    named = [name for name in names if name]
    return frame.drop(columns=unnamed).set_axis(renamed(named, mapping, path), axis=1)


def _check_header_is_first(rows: list[Row], path: Path, known: _Known) -> None:
    headers = [number for number, cells in rows[:LINES_BEFORE_HEADER] if known.is_header(cells)]
    if headers and not known.is_header(rows[0][1]):
        raise RlvoError(
            f"the column names are in line {headers[0]}, below other lines",
            where=path,
            fix="Keep one header line, and nothing above it",
        )
