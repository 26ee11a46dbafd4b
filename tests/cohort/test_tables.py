from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from rlvo.cohort.tables import read_table
from rlvo.errors import CohortError, RlvoError

HEADER, ROW = "patient_id,age,sex", "007,70.5,F"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_usual_delimiters_give_the_same_cells(tmp_path: Path, delimiter: str) -> None:
    table = read_table(write(tmp_path / "c.csv", f"{HEADER}\n{ROW}\n".replace(",", delimiter)))
    assert table.cells.to_dict("records") == [{"patient_id": "007", "age": "70.5", "sex": "F"}]
    assert table.decimal_comma == (delimiter != ",")


def test_a_delimiter_is_judged_by_the_names_it_finds(tmp_path: Path) -> None:
    # More commas than semicolons in the header, and quotes that only the semicolon explains.
    text = '"patient_id";"age";"notes (a, b, c, d)"\n"1";"70,5";"x, y"\n'
    table = read_table(write(tmp_path / "c.csv", text))
    assert list(table.cells) == ["patient_id", "age", "notes (a, b, c, d)"]
    assert table.cells.loc[0, "age"] == "70,5"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_byte_order_marks_and_latin_1(tmp_path: Path, encoding: str) -> None:
    table = read_table(write(tmp_path / "c.csv", "patient_id,center\nA,Vall d'Hebrón\n".encode(encoding)))
    assert table.cells.to_dict("records") == [{"patient_id": "A", "center": "Vall d'Hebrón"}]


def test_names_lose_case_and_blanks_and_empty_lines_and_columns_go(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "c.csv", "\r\n Patient_ID , AGE ,\r\n1,70,\r\n\r\n,,\r\n2,80,\r\n"))
    assert list(table.cells) == ["patient_id", "age"]
    assert list(table.cells["patient_id"]) == ["1", "2"]


def test_quoted_cells_may_hold_delimiters_and_line_breaks(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "c.csv", 'patient_id,center\n1,"a, b\nc"\n'))
    assert table.cells.loc[0, "center"] == "a, b\nc"


def test_ragged_rows_duplicate_and_unnamed_columns_are_all_told(tmp_path: Path) -> None:
    with pytest.raises(CohortError) as caught:
        read_table(write(tmp_path / "c.csv", "patient_id,age,Age,\n1,70,71,x\n2,70\n3,70,71,y,z\n"))
    text = str(caught.value)
    assert len(caught.value.findings) == 4
    assert "line 3: 2 cells where the header has 4" in text
    assert "line 4: 5 cells" in text
    assert "age: names more than one column" in text
    assert "column 4: has no name" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.csv", "", "no patients"),
        ("c.csv", "patient_id,age\n", "no patients"),
        ("c.csv", 'patient_id,age\n1,"70\n2,71\n', "not readable as a delimited table"),
        ("c.csv", b"PK\x03\x04\x00\x00patient_id", "a zipped file"),
        ("c.csv", b"patient_id,age\n1,\x00\n", "binary data"),
        ("c.csv", b"\xff\xfep\x00a", None),
        ("c.xlsx", "patient_id,age\n1,70\n", "not a readable XLSX"),
        ("c.xls", "patient_id\n1\n", "'.xls' is not a table format"),
    ],
)
def test_files_that_are_no_table_are_refused_in_one_line(
    tmp_path: Path, name: str, content: str | bytes, message: str | None
) -> None:
    with pytest.raises(RlvoError, match=message) as caught:
        read_table(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(RlvoError, match="no such cohort table"):
            read_table(path)


def test_a_utf_16_file_cut_in_a_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RlvoError, match="begins as utf-16"):
        read_table(write(tmp_path / "c.csv", "patient_id,age\n1,70\n".encode("utf-16")[:-1]))


def test_workbooks_keep_text_ids_and_take_the_sheet_that_names_patients(tmp_path: Path) -> None:
    path = tmp_path / "c.xlsx"
    with pd.ExcelWriter(path) as book:
        pd.DataFrame({"read me": ["first"]}).to_excel(book, sheet_name="notes", index=False)
        pd.DataFrame({"patient_id": ["007", "NA"], "age": [70.5, None]}).to_excel(book, sheet_name="data", index=False)
    table = read_table(path)
    assert list(table.cells["patient_id"]) == ["007", "NA"]
    assert list(table.cells["age"]) == [70.5, ""]


def test_a_workbook_with_two_cohorts_is_ambiguous(tmp_path: Path) -> None:
    path = tmp_path / "c.xlsx"
    with pd.ExcelWriter(path) as book:
        for sheet in ("2019", "2020"):
            pd.DataFrame({"patient_id": ["1"]}).to_excel(book, sheet_name=sheet, index=False)
    with pytest.raises(RlvoError, match=r"which sheet is the cohort.*2019, 2020"):
        read_table(path)
