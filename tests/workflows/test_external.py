"""Who of another cohort counts, and what of it a model is given."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rlvo.config.workdir import Workdir
from rlvo.errors import CohortError, RlvoError
from rlvo.workflows.external import answers_folder, read_external

COLUMNS = ("patient_id", "ncct", "cta", "vessels", "age", "sex", "smoking")


def write(folder: Path, **changes: object) -> Path:
    rows: dict[str, Any] = {
        "patient_id": ["a", "b", "c", "d"],
        "age": ["70,5", "61", "58", "80"],
        "sex": ["F", "M", "M", "F"],
        "ncct": ["a-ncct", "", "c-ncct", "d-ncct"],
        "cta": ["a-cta", "b-cta", "c-cta", "d-cta"],
        "etici": ["3", "3", "0", "2a"],
        "final_stenosis_pct": [0, 0, 70, 10],
        "rescue_treatment": [0, 0, 1, 0],
        "severe_artifact": [0, 0, 0, 1],
        "center": ["north", "north", "south", "south"],
        "surgeon": ["x"] * 4,
    } | changes
    folder.mkdir(exist_ok=True)
    for name in filter(None, [*rows["ncct"], *rows["cta"]]):
        (folder / name).touch()
    pd.DataFrame(rows).to_csv(folder / "cohort.csv", index=False, sep=";")
    return folder / "cohort.csv"


def test_selection_and_labels_are_those_of_a_study(tmp_path: Path) -> None:
    found = read_external(write(tmp_path), COLUMNS)
    assert {each.rule: each.patients for each in found.cohort.selection.excluded} == {
        "severe artefacts": ("d",),
        "NCCT or CTA missing": ("b",),
    }
    assert found.cohort.label.to_dict() == {"a": 0, "c": 1}
    assert found.lacking == ("smoking",)


def test_what_a_model_is_given_holds_no_outcome(tmp_path: Path) -> None:
    patients = read_external(write(tmp_path), COLUMNS).patients
    assert set(patients.raw.cells) == {"patient_id", "age", "sex", "ncct", "cta"}
    assert patients.raw.cells["patient_id"].tolist() == ["a", "c"]
    assert (patients.raw.decimal_comma, patients.raw.cells["age"].iloc[0]) == (True, "70,5")
    assert patients.typed["age"].to_dict() == {"a": 70.5, "c": 58}
    assert patients.folder == tmp_path


def test_a_table_at_fault_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="contradicts the outcomes"):
        read_external(write(tmp_path, rlvo=[1, 0, 1, 1]), COLUMNS)
    with pytest.raises(CohortError, match="patient a, age"):
        read_external(write(tmp_path, age=["700", "61", "58", "80"]), COLUMNS)
    with pytest.raises(RlvoError, match="excluded: severe artefacts 4"):
        read_external(write(tmp_path, severe_artifact=1), COLUMNS)


def test_a_table_under_other_names_reads_as_ours(tmp_path: Path) -> None:
    ours, path = read_external(write(tmp_path), COLUMNS), tmp_path / "theirs.csv"
    columns = {"patient_id": "NHC", "age": "Edad", "etici": "TICI", "tmax_gt4_ml": "Tmax 4"}
    pd.read_csv(ours.path, sep=";", dtype=str).rename(columns=columns).to_csv(path, sep=";", index=False)
    found = read_external(path, COLUMNS, columns)
    pd.testing.assert_series_equal(found.cohort.label, ours.cohort.label)
    pd.testing.assert_frame_equal(found.patients.raw.cells, ours.patients.raw.cells)
    assert found.lacking == ours.lacking
    assert found.cohort.notes == ("no column 'Tmax 4' for tmax_gt4_ml",)


def test_tables_of_one_name_keep_their_answers_apart(tmp_path: Path) -> None:
    work = Workdir(tmp_path)
    a, b = (answers_folder(work, write(tmp_path / name)) for name in ("a", "b"))
    assert a != b
    assert a.name.startswith("cohort-")
    assert answers_folder(work, tmp_path / "a" / "." / "cohort.csv") == a
