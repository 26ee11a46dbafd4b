"""Table files to text: CSV, TSV and XLSX as hospitals write them, every cell as it was written."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import pandas as pd

from rlvo.cohort.variables import VARIABLES
from rlvo.errors import CohortError, Finding, RlvoError

Row = tuple[int, list[Any]]
"""Line number and cells of a row that is not empty."""
DELIMITERS = (",", ";", "\t", "|")
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class RawTable:
    """Cells as written, columns named, and whether a comma can be a decimal comma (it is not the delimiter)."""

    cells: pd.DataFrame
    decimal_comma: bool


def read_table(path: Path) -> RawTable:
    """Read a table file without interpreting its cells.

    Text files: UTF-8, UTF-16 with a byte-order mark, or Latin-1; delimiter comma, semicolon, tab or bar, the one that
    makes the header name most known columns. XLSX: the one sheet whose header names `patient_id`.

    Raises:
        RlvoError: missing, empty, of another format, or damaged.
        CohortError: ragged rows, duplicate or unnamed columns; all at once.
    """
    if not path.is_file():
        raise RlvoError("no such cohort table", where=path, fix="Name a CSV, TSV or XLSX file")
    suffix = path.suffix.lower()
    if suffix == ".xlsx":
        rows, decimal_comma = _workbook_rows(path), True
    elif suffix in (".csv", ".tsv", ".txt"):
        rows, decimal_comma = _text_rows(path)
    else:
        raise RlvoError(
            f"'{path.suffix}' is not a table format rlvo reads", where=path, fix="Save it as CSV, TSV or XLSX"
        )
    return RawTable(_frame(rows, path), decimal_comma)


def _text_rows(path: Path) -> tuple[list[Row], bool]:
    """Rows, and whether the delimiter leaves the comma free."""
    text = _decoded(path)
    try:
        headers = {delimiter: next(_parsed(text, delimiter, strict=False), (0, []))[1] for delimiter in DELIMITERS}
        delimiter = max(DELIMITERS, key=lambda d: (len(_names(headers[d]) & set(VARIABLES)), len(headers[d])))
        return list(_parsed(text, delimiter, strict=True)), delimiter != ","
    except csv.Error as error:
        raise RlvoError(f"not readable as a delimited table: {error}", where=path, fix="Save it again as CSV") from None


def _decoded(path: Path) -> str:
    content = path.read_bytes()
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


def _workbook_rows(path: Path) -> list[Row]:
    try:
        sheets = pd.read_excel(path, sheet_name=None, header=None, dtype=object, na_filter=False, engine="openpyxl")
    except (BadZipFile, KeyError, ValueError) as error:
        raise RlvoError(f"not a readable XLSX file ({error})", where=path, fix="Save it again as XLSX or CSV") from None
    filled = {name: sheet for name, sheet in sheets.items() if not sheet.empty}
    cohorts = {n: s for n, s in filled.items() if "patient_id" in _names(s.iloc[0])} or filled
    if len(cohorts) != 1:
        names = ", ".join(map(str, cohorts)) or "none"
        raise RlvoError(
            f"which sheet is the cohort? ({names})", where=path, fix="Keep one sheet with a patient_id column"
        )
    (sheet,) = cohorts.values()
    numbered = enumerate(sheet.itertuples(index=False, name=None), start=1)
    return [(number, list(row)) for number, row in numbered if any(str(cell).strip() for cell in row)]


def _names(header: Iterable[object]) -> set[str]:
    return {_name(cell) for cell in header}


def _name(cell: object) -> str:
    return str(cell).strip().lower()


def _frame(rows: list[Row], path: Path) -> pd.DataFrame:
    if len(rows) < 2:
        raise RlvoError("holds no patients", where=path, fix="A header line and one line a patient are needed")
    (_, header), *body = rows
    names = [_name(cell) for cell in header]
    findings = [
        Finding(
            None,
            f"line {number}",
            f"{len(cells)} cells where the header has {len(names)}",
            "Quote cells that hold the delimiter",
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
    return frame.drop(columns=unnamed).set_axis([name for name in names if name], axis=1)
