"""Reading table files: CSV, TSV and XLSX as hospitals write them, every cell as it was written."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from rlvo.cohort.cells import abbreviate
from rlvo.cohort.mapping import KnownColumns, plain_name, rename_columns, with_sources
from rlvo.cohort.variables import VOLUMES, did_you_mean, known_variables
from rlvo.cohort.workbooks import FIRST_LINES, OLE, Row, workbook_rows
from rlvo.config.predictors import OwnPredictor
from rlvo.errors import CohortError, Finding, RlvoError
from rlvo.text import unescape_formula

DELIMITERS = (",", ";", "\t", "|")
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
OTHER_FORMATS = {
    OLE: "an old Excel file", b"PK\x03\x04": "a zipped file such as XLSX", b"%PDF": "a PDF file",
    b"\x1f\x8b": "a gzip file", b"<": "a web page or XML",
}  # fmt: skip
"""The first bytes of other formats, which show what a file is, whatever its name."""
LOST = "\ufffd"
"""What stands for a character that could not be read."""
GUESSED = "cp1252"
"""The encoding of text that is not UTF-8: Windows-1252, which holds Latin-1. Others cannot be told from it."""
IDENTIFYING = ("patient_id", "person", *VOLUMES)
"""Columns whose text has to be right to the letter."""


@dataclass(frozen=True)
class RawTable:
    """Cells as written, and whether a comma in a number is a decimal comma (it is if it is not the delimiter)."""

    cells: pd.DataFrame
    decimal_comma: bool
    notes: tuple[str, ...] = ()
    """What had to be decided to read the file."""

    def renamed(
        self, mapping: Mapping[str, str], where: object, *, partly: bool, own: Sequence[OwnPredictor] = ()
    ) -> "RawTable":
        """The table with our column names, as a mapping says; what it lacks and a model may be given is noted.

        Arguments and errors are those of `rename_columns`; `own` declares predictors that rlvo does not know.
        """
        theirs, variables = [*map(plain_name, self.cells)], known_variables(own)
        mapping = with_sources(mapping, own, theirs)
        if not mapping:
            return self
        names = rename_columns(theirs, mapping, where, partly=partly, variables=variables)
        unknown = [name for name in names if name not in variables]
        lacking = [
            f"no column '{name}' for {ours}{did_you_mean(plain_name(name), unknown)}"
            for ours, name in mapping.items()
            if ours not in names and variables[ours].role in ("predictor", "image")
        ]
        return replace(self, cells=self.cells.set_axis(names, axis=1), notes=(*self.notes, *lacking))


def check_table(path: Path) -> None:
    """Raise RlvoError unless there is a file of a format that is read."""
    if not path.is_file():
        raise RlvoError("no such cohort table", where=path, fix="Give the path of a CSV, TSV or XLSX file")
    if path.suffix.lower() not in (".xlsx", ".csv", ".tsv", ".txt"):
        what = f"'{path.suffix}' is not a table format that rlvo reads"
        raise RlvoError(what, where=path, fix="Save it as CSV, TSV or XLSX")


def read_table(
    path: Path,
    mapping: Mapping[str, str] | None = None,
    *,
    partly: bool = False,
    own: Sequence[OwnPredictor] = (),
) -> RawTable:
    """Read a table file without interpreting its cells.

    Text files: UTF-8, UTF-16 with a byte-order mark, or else Windows-1252, which is noted; delimited by comma,
    semicolon, tab or bar, whichever finds most known columns in the header. XLSX: the one sheet whose header names
    `patient_id`.

    Args:
        mapping: our column name to the table's, if it has another.
        partly: the table may lack columns that the mapping names, as new patients' lack outcomes.
        own: the declarations of predictors that rlvo does not know; a column named as the source of one is renamed.

    Raises:
        RlvoError: the file is missing, empty, damaged or of another format, or the mapping does not fit.
        CohortError: lists all ragged rows, duplicate or unnamed columns, ids and paths that other encodings read
            otherwise, and cells of a workbook that are unclear (`rlvo.cohort.workbooks`).
    """
    check_table(path)
    mapping = mapping or {}
    known = KnownColumns.of(with_sources(mapping, own), known_variables(own))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RlvoError(f"cannot be read ({error.strerror})", where=path, fix="Check its permissions") from None
    encoding, notes = "utf-8", tuple[str, ...]()
    if path.suffix.lower() == ".xlsx":
        rows, decimal_comma = workbook_rows(content, path, known), True
    else:
        text, encoding, notes = _decoded(content, path)
        rows, decimal_comma = _text_rows(text, path, known)
    table = RawTable(_frame(rows, path, known), decimal_comma, notes).renamed(mapping, path, partly=partly, own=own)
    if misread := list(_misread(table.cells, encoding)):
        raise CohortError(misread, where=path, notes=notes)
    return table


def _text_rows(text: str, path: Path, known: KnownColumns) -> tuple[list[Row], bool]:
    """Return the rows, and whether the comma is free for decimals."""

    def header_match(delimiter: str) -> tuple[int, int]:
        """Return how many known columns the best of the first lines names if split so, and its number of columns."""
        first = zip(range(FIRST_LINES), _parsed(text, delimiter, strict=False), strict=False)
        matches = ((len(known.variables.keys() & {*map(plain_name, cells)}), len(cells)) for _, (_, cells) in first)
        return max(matches, default=(0, 0))

    try:
        delimiter = max(DELIMITERS, key=header_match)
        return list(_parsed(text, delimiter, strict=True)), delimiter != ","
    except csv.Error as error:
        raise RlvoError(f"not readable as a delimited table: {error}", where=path, fix="Save it again as CSV") from None


def _decoded(content: bytes, path: Path) -> tuple[str, str, tuple[str, ...]]:
    """Return the text, its encoding, and what had to be decided. Characters that are damaged become U+FFFD."""
    if other := next((name for start, name in OTHER_FORMATS.items() if content.lstrip().startswith(start)), None):
        raise RlvoError(f"the file is {other}, not a text table", where=path, fix="Save it as UTF-8 CSV")
    marked = next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)
    encoding, notes = marked or "utf-8", tuple[str, ...]()
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        if marked:
            name = marked.removesuffix("-sig").upper()
            what = f"the file starts with a {name} mark but is not valid {name}"
            raise RlvoError(what, where=path, fix="Save it again as UTF-8 CSV") from None
        text = content.decode("utf-8", "replace")
        damaged = text.count(LOST)
        if sum(not character.isascii() for character in text) >= 2 * damaged:
            lines = [str(number) for number, line in enumerate(text.split("\n"), start=1) if LOST in line]
            some = ", ".join(lines[:5]) + (", …" if len(lines) > 5 else "")
            notes = (f"the file is UTF-8 except for {damaged} damaged characters, in lines {some}",)
        else:
            encoding = GUESSED
            text = content.decode(GUESSED, "replace")
            notes = ("the file is not UTF-8: it was read as Windows-1252, and other encodings read accents otherwise",)
    if "\0" in text:
        raise RlvoError("the file holds binary data, not a table", where=path, fix="Save it as UTF-8 CSV")
    return text, encoding, notes


def _misread(cells: pd.DataFrame, encoding: str) -> Iterator[Finding]:
    """Find ids and paths that lost a character, or that another encoding reads as other characters."""
    for name in (name for name in IDENTIFYING if name in cells):
        for row, cell in enumerate(map(str, cells[name]), start=1):
            if cell.isascii():
                continue
            if encoding == GUESSED:
                what = f"'{abbreviate(cell)}' was read as Windows-1252, and other encodings read it otherwise"
            elif LOST in cell:
                what = f"'{abbreviate(cell)}' holds a damaged character"
            elif written := _written_before(cell):
                what = f"'{abbreviate(cell)}' is '{abbreviate(written)}' in a wrong encoding"
            else:
                continue
            yield Finding(None, name, f"row {row}: {what}", "Save the original file as UTF-8 CSV", abbreviate(cell))


def _written_before(cell: str) -> str | None:
    """The text that was written as UTF-8, read as Windows-1252 and written again as this; None if it was not."""
    try:
        return cell.encode(GUESSED).decode("utf-8")
    except UnicodeError:
        return None


def _parsed(text: str, delimiter: str, *, strict: bool) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=strict, skipinitialspace=True)
    for row in reader:
        if any(cell.strip() for cell in row):
            yield reader.line_num, list(map(unescape_formula, row))


def _frame(rows: list[Row], path: Path, known: KnownColumns) -> pd.DataFrame:
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
    return frame.drop(columns=unnamed).set_axis(kept, axis=1)
