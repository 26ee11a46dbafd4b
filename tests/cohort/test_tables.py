from pathlib import Path

import pandas as pd
import pytest
from support.malformed import FILES, WORKBOOKS, check_refused, written

from rlvo.cohort.tables import read_table
from rlvo.errors import CohortError
from rlvo.files import csv_text

DAMAGED = {**FILES, **WORKBOOKS}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_usual_delimiters_give_the_same_cells(tmp_path: Path, delimiter: str) -> None:
    table = read_table(written(tmp_path, "patient_id,age,sex\n007,70.5,F\n".replace(",", delimiter)))
    assert table.cells.to_dict("records") == [{"patient_id": "007", "age": "70.5", "sex": "F"}]
    assert table.decimal_comma == (delimiter != ",")


def test_the_delimiter_is_the_one_that_finds_most_known_names(tmp_path: Path) -> None:
    # More commas than semicolons in the header, and quotes that only the semicolon explains.
    text = '"patient_id";"age";"notes (a, b, c, d)"\n"1";"70,5";"x, y"\n'
    table = read_table(written(tmp_path, text))
    assert list(table.cells) == ["patient_id", "age", "notes (a, b, c, d)"]
    assert table.cells.loc[0, "age"] == "70,5"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_byte_order_marks_and_latin_1(tmp_path: Path, encoding: str) -> None:
    table = read_table(written(tmp_path, "patient_id,center\nA,Vall d'Hebrón\n".encode(encoding)))
    assert table.cells.to_dict("records") == [{"patient_id": "A", "center": "Vall d'Hebrón"}]


@pytest.mark.parametrize("encoding", ["cp1252", "cp850", "shift-jis"])
def test_ids_are_refused_if_their_encoding_is_a_guess_and_other_text_is_read_with_a_note(
    tmp_path: Path, encoding: str
) -> None:
    name = "山田" if encoding == "shift-jis" else "Müller"
    with pytest.raises(CohortError, match="was read as Windows-1252"):
        read_table(written(tmp_path, f"patient_id,age\n{name},70\nB,71\n".encode(encoding)))
    table = read_table(written(tmp_path, f"patient_id,age,remark\nA,70,{name}\n".encode(encoding)))
    assert list(table.cells["patient_id"]) == ["A"]
    assert "Windows-1252" in table.notes[0]


def test_one_damaged_byte_in_utf8_changes_no_other_cell(tmp_path: Path) -> None:
    text = "patient_id,center,remark\nMüller,Gräfe,x\nÅse,Gräfe,?\n".encode()
    table = read_table(written(tmp_path, text.replace(b"?", b"\xe9")))
    assert list(table.cells["patient_id"]) == ["Müller", "Åse"]
    assert "1 damaged" in table.notes[0]
    assert "line" in table.notes[0]
    with pytest.raises(CohortError, match=r"row 2: .* damaged character"):
        read_table(written(tmp_path, text.replace("Å".encode(), b"\xc5")))


def test_ids_that_were_written_in_a_wrong_encoding_are_found(tmp_path: Path) -> None:
    assert read_table(written(tmp_path, "patient_id,age\nMüller,70\n山田,71\n")).notes == ()
    with pytest.raises(CohortError, match="'MÃ¼ller' is 'Müller'"):
        read_table(written(tmp_path, "patient_id,age\nMÃ¼ller,70\n"))


def test_case_blanks_empty_lines_and_empty_columns_are_dropped(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, "\r\n Patient_ID , AGE ,\r\n1,70,\r\n\r\n,,\r\n2,80,\r\n"))
    assert list(table.cells) == ["patient_id", "age"]
    assert list(table.cells["patient_id"]) == ["1", "2"]


def test_quoted_cells_may_hold_delimiters_and_line_breaks(tmp_path: Path) -> None:
    table = read_table(written(tmp_path, 'patient_id,center\n1,"a, b\nc"\n'))
    assert table.cells.loc[0, "center"] == "a, b\nc"


def test_answers_are_read_again_with_the_ids_they_were_written_for(tmp_path: Path) -> None:
    ids = ["=cmd|'/c calc'!A0", "-7", "+1", "@a", "'=b", "'c", "=1;2", "d"]
    text = csv_text(pd.DataFrame({"patient_id": ids, "score": -0.5}))
    assert not any(line.startswith(("=", "-", "+", "@")) for line in text.replace('"', "").splitlines())
    assert list(read_table(written(tmp_path, text)).cells["patient_id"]) == ids


def test_ragged_rows_and_duplicate_or_unnamed_columns_are_all_reported(tmp_path: Path) -> None:
    with pytest.raises(CohortError) as caught:
        read_table(written(tmp_path, "patient_id,age,Age,\n1,70,71,x\n2,70\n3,70,71,y,z\n"))
    text = str(caught.value)
    assert len(caught.value.findings) == 4
    assert "line 3: 2 cells, but the header has 4" in text
    assert "line 4: 5 cells" in text
    assert "age: more than one column has this name" in text
    assert "column 4: has cells but no name" in text


@pytest.mark.parametrize("name", DAMAGED)
def test_a_file_that_is_not_a_sound_table_is_refused(name: str, tmp_path: Path) -> None:
    check_refused(DAMAGED[name], tmp_path)
