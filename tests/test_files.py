"""A file is whole or not there, whatever happens while it is written."""

import csv
import hashlib
import io
import os
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvo.errors import RlvoError
from rlvo.files import (
    atomic_write,
    check_writable,
    csv_text,
    file_sha256,
    on_one_disk,
    parse_json,
    private,
    read_csv,
)


def test_a_failed_write_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    atomic_write(path, "old")

    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_names_patients_is_its_owners_alone(tmp_path: Path) -> None:
    """A file that an earlier version left open to others, too."""
    path = tmp_path / "answers.jsonl"
    private(path)
    assert (path.stat().st_mode & 0o777, path.read_bytes()) == (0o600, b"")
    path.write_text("kept")
    path.chmod(0o644)
    private(path)
    assert (path.stat().st_mode & 0o777, path.read_text()) == (0o600, "kept")
    atomic_write(tmp_path / "answers.csv", "a")
    assert (tmp_path / "answers.csv").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", ""])
def test_damaged_json_is_a_value_error_however_deep(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_json(text)


def test_the_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    atomic_write(path, b"\x00\x01")
    assert file_sha256(path) == hashlib.sha256(b"\x00\x01").hexdigest()


def test_a_place_that_cannot_be_written_is_told_and_nothing_is_made(tmp_path: Path) -> None:
    (file := tmp_path / "file").touch()
    for place in (tmp_path / "new", tmp_path / "a" / "b" / "new", file):
        check_writable(place)
    for place in (tmp_path, tmp_path / "a" / "b"):
        check_writable(place, folder=True)
    with pytest.raises(RlvoError, match="Not a directory"):
        check_writable(file / "new")
    with pytest.raises(RlvoError, match="Not a directory"):
        check_writable(file, folder=True)
    with pytest.raises(RlvoError, match="Is a directory"):
        check_writable(tmp_path)
    with pytest.raises(RlvoError, match=r"Permission denied|Read-only"):
        check_writable(Path("/proc/sys/new/file"))
    assert list(tmp_path.iterdir()) == [file]


@given(st.lists(st.text("'=+-@ ab1,;\"|", min_size=1, max_size=6), min_size=1, max_size=4), st.floats(allow_nan=False))
def test_a_table_reads_back_from_csv_and_holds_no_formula(cells: list[str], number: float) -> None:
    table = pd.DataFrame(
        {"id": pd.array(cells, dtype="str"), "-x": number, "votes": pd.array([1] * len(cells), "Int64")}
    )
    text = csv_text(table)
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / "table.csv").write_text(text)
        found = read_csv(path, {"id": "str", "votes": "Int64"})
    pd.testing.assert_frame_equal(found, table, check_exact=True)
    for row in csv.reader(io.StringIO(text)):
        assert not row[0].strip(" ").startswith(("=", "+", "-", "@"))
    assert text.splitlines()[0] == "id,'-x,votes"


def test_a_table_is_written_as_pandas_would_but_for_what_is_obeyed() -> None:
    table = pd.DataFrame(
        {
            "text": ["a,b", 'say "x"', None],
            "float": [1e-7, float("nan"), 1e16],
            "single": pd.Series([0.1, float("inf"), -2], dtype="float32"),
            "integer": pd.array([1, None, -3], "Int64"),
            "switch": [True, False, True],
            "maybe": pd.array([True, None, False], "boolean"),
            "mixed": [1, None, "z"],
            "numbers": pd.Series([-1, float("nan"), 3], dtype=object),
            "category": pd.Categorical(["u", None, "v"]),
            7: [0.1 + 0.2, 123456789.123, 5e-324],
        }
    )
    for each in (table, table[:0], table[["float"]], table[["text"]], table.iloc[::-1]):
        assert csv_text(each) == each.infer_objects().to_csv(index=False)


def test_ids_such_as_na_are_not_missing_and_control_characters_are_visible(tmp_path: Path) -> None:
    text = csv_text(
        pd.DataFrame({"id": ["NA", "a\x1b[31m\u202e"], "note": ["=cmd|'/c calc'!A0", None], "score": [-1.5, 2]})
    )
    assert text.splitlines() == ["id,note,score", "NA,'=cmd|'/c calc'!A0,-1.5", r"a\x1b[31m\u202e,,2.0"]
    (tmp_path / "t.csv").write_text(text)
    found = read_csv(tmp_path / "t.csv", {"id": "str"})
    assert list(found["id"]) == ["NA", r"a\x1b[31m\u202e"]
    assert found["note"].iloc[0] == "=cmd|'/c calc'!A0"
    assert pd.isna(found["note"].iloc[1])


def test_places_are_on_one_disk_whether_they_exist_or_not(tmp_path: Path) -> None:
    assert on_one_disk(tmp_path, tmp_path / "none" / "yet")
    assert not on_one_disk(tmp_path, Path("/proc/none"))


def test_a_table_whose_index_repeats_keeps_its_rows() -> None:
    """As after `pd.concat`."""
    table = pd.DataFrame({"patient": ["a", "b", "=c"], "label": [0, 1, 1]}, index=[0, 1, 0])
    assert csv_text(table) == "patient,label\na,0\nb,1\n'=c,1\n"
