"""Workbooks are read as a person sees them."""

import datetime
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
from support.malformed import full_rows, workbook

from rlvo.cohort.reading import read_cohort
from rlvo.cohort.tables import read_table
from rlvo.errors import RlvoError

DAY = datetime.datetime(2021, 5, 4)
Edit = Callable[[openpyxl.Workbook], object]


def column(book: openpyxl.Workbook, name: str) -> int:
    return next(int(cell.column) for cell in book.active[1] if cell.value == name)


def fill(name: str, value: object, number_format: str = "General", rows: range = range(2, 3)) -> Edit:
    """Change a column's cells in these rows; a function makes each value of the row's number."""

    def edit(book: openpyxl.Workbook) -> None:
        for row in rows:
            cell = book.active.cell(row, column(book, name), value(row) if callable(value) else value)
            cell.number_format = number_format

    return edit


def read(folder: Path, edit: Edit) -> pd.DataFrame:
    return read_cohort(workbook(edit, "").write(folder, full_rows()), need_volumes=False).table


def rename_sheet_and_hide_a_copy(book: openpyxl.Workbook) -> None:
    book.copy_worksheet(book.active).sheet_state = "hidden"


@pytest.mark.parametrize(
    ("edit", "name", "expected"),
    [
        (fill("age", 70.25, "0"), "age", 70.25),
        (fill("age", 70, "000"), "age", 70),
        (fill("age", 70, '0" años"'), "age", 70),
        (fill("tmax_gt4_ml", 1234.5, "#,##0.0"), "tmax_gt4_ml", 1234.5),
        (fill("tmax_gt4_ml", 1234.56, '0.0" mL"'), "tmax_gt4_ml", 1234.56),
        (fill("cbf_lt30_ml", 0, '#,##0.0;-#,##0.0;"-"'), "cbf_lt30_ml", 0),
        (fill("ivt", True), "ivt", 1),
        (fill("sex", 2, '[=1]"M";[=2]"F";General'), "sex", "F"),
        (fill("age", "70"), "age", 70),
        (fill("admission_date", DAY.replace(hour=13), "dd/mm/yyyy hh:mm"), "admission_date", "2021-05-04"),
        (fill("admission_date", DAY, "mmm-yy"), "admission_date", "2021-05-04"),
        (rename_sheet_and_hide_a_copy, "sex", full_rows()["sex"][0]),
        (lambda book: setattr(book.active.row_dimensions[45], "hidden", True), "sex", full_rows()["sex"][0]),
    ],
)  # fmt: skip
def test_what_a_person_sees_is_read(edit: Edit, name: str, expected: object, tmp_path: Path) -> None:
    assert read(tmp_path, edit)[name].iloc[0] == expected


@pytest.mark.parametrize(
    ("number_format", "second", "ids"),
    [("000", "002", 40), ('"P"00', "P02", 40), ("00-00", "00-02", 40), ("General", "2", 40), ("0", "2", 40)],
)
def test_ids_are_read_as_they_are_shown(number_format: str, second: str, ids: int, tmp_path: Path) -> None:
    table = read(tmp_path, fill("patient_id", lambda row: row - 1, number_format, range(2, 42)))
    assert table.index[1] == second
    assert len(table) == ids


def hide_rows(book: openpyxl.Workbook) -> None:
    for row in (3, 5, 6, 7):
        book.active.row_dimensions[row].hidden = True
    book.active.auto_filter.ref = "A1:X41"


def hide_the_sheet(book: openpyxl.Workbook) -> None:
    book.active.sheet_state = "hidden"
    book.active = book.create_sheet("notes")


REFUSED: dict[str, tuple[Edit, str]] = {
    "an id that became a date": (
        fill("patient_id", DAY, "d-mmm"), "cell A2, patient_id: is the date or time 2021-05-04"
    ),
    "an id that became a time": (fill("patient_id", datetime.time(1, 20), "h:mm"), "cell A2, .*date or time 01:20"),
    "an id of 18 digits": (fill("patient_id", 123456789012345678), "cell A2, patient_id: .*more digits than the 15"),
    "an id shown rounded": (fill("patient_id", 7.5, "000"), "cell A2, patient_id: holds 7.5 but shows 008"),
    "an id that is an error": (fill("patient_id", "#REF!"), "patient #REF!, patient_id: is a spreadsheet's error"),
    "TRUE among numbers": (fill("nihss", True), "patient 000, nihss: 'TRUE' is not allowed"),
    "FALSE among grades": (fill("etici", False), "patient 000, etici: 'FALSE' is not allowed"),
    "#N/A": (fill("age", "#N/A"), "patient 000, age: '#N/A' is not allowed.*formula error"),
    "#DIV/0!": (fill("age", "#DIV/0!"), "patient 000, age: '#DIV/0!' is not allowed.*formula error"),
    "hidden rows": (hide_rows, "row 3: hidden.*\n.*rows 5-7: hidden"),
    "a hidden column": (
        lambda book: book.active.column_dimensions.group("B", "C", hidden=True), "column C, sex: is hidden"
    ),
    "a hidden sheet": (hide_the_sheet, "the sheet 'Sheet1' is hidden"),
    "a percent sign as text": (fill("final_stenosis_pct", 55, '0"%"'), "patient 000, .*'55%' is not allowed"),
    "another unit": (fill("tmax_gt4_ml", 0.25, '0.00" L"'), "patient 000, tmax_gt4_ml: '0.25 L' is not allowed"),
    "in thousands": (fill("tmax_gt4_ml", 900, "0.0,"), "cell O2, tmax_gt4_ml: holds 900 but shows 0.9"),
    "a number that is not shown": (fill("age", 70, ";;;"), "cell B2, age: holds 70 but shows nothing"),
    "a date without its year": (
        fill("admission_date", datetime.datetime(2024, 5, 3), "d-mmm"), "holds 2024-05-03 but shows no year"
    ),
    "a month alone": (fill("admission_date", datetime.datetime(2024, 5, 1), "mmm-yy"), "2024-05-01 but shows no day"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_saw_is_named(name: str, tmp_path: Path) -> None:
    edit, says = REFUSED[name]
    with pytest.raises(RlvoError, match=says):
        read(tmp_path, edit)


def test_a_calculated_empty_text_is_an_empty_cell(tmp_path: Path) -> None:
    from zipfile import ZipFile

    path = workbook(fill("smoking", '=IF(1,"","")'), "").write(tmp_path, full_rows())
    with ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    # As Excel saves it: the result's type is text, and the text is empty.
    parts[sheet] = parts[sheet].replace(b'<c r="G2"><f>', b'<c r="G2" t="str"><f>')
    assert b't="str"' in parts[sheet]
    with ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    assert pd.isna(read_cohort(path, need_volumes=False).table["smoking"].iloc[0])


def test_a_row_of_zeros_is_a_row(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["patient_id", "hypertension"], ["a", 1], [0, 0], [None, None], ["b", 0]):
        book.active.append(row)
    book.save(tmp_path / "cohort.xlsx")
    assert list(read_table(tmp_path / "cohort.xlsx").cells["patient_id"].astype(str)) == ["a", "0", "b"]
