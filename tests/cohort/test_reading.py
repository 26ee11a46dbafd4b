from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlvo.cohort.reading import Cohort, check_table, data_hash, examine_table, read_cohort
from rlvo.config.study import PAPER_PREDICTORS
from rlvo.errors import CohortError, RlvoError


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Cohort]:
    """Write a table as CSV and read it as a tabular cohort."""

    def write_and_read(rows: pd.DataFrame, **options: object) -> Cohort:
        path = tmp_path / "cohort.csv"
        rows.to_csv(path, index=False)
        return read_cohort(path, **{"need_volumes": False, **options})  # type: ignore[arg-type]

    return write_and_read


def findings(error: pytest.ExceptionInfo[CohortError]) -> set[tuple[str | None, str | None]]:
    return {(finding.patient, finding.field) for finding in error.value.findings}


def test_a_sound_table_is_typed(read: Callable[..., Cohort], rows: pd.DataFrame) -> None:
    rows.loc[0, ["patient_id", "sex", "occlusion_site", "etici", "hypertension"]] = ["NA", "f", "m1", "2A", "TRUE"]
    rows.loc[1, ["age", "etici", "final_stenosis_pct", "ivt"]] = ["NaN", "3.0", "5e1", "null"]
    cohort = read(rows.assign(shoe_size="43"))
    assert list(cohort.table.index[:3]) == ["NA", "001", "002"]
    first, second = cohort.table.iloc[0], cohort.table.iloc[1]
    assert (first["sex"], first["occlusion_site"], first["etici"], first["hypertension"]) == ("F", "M1", "2a", 1.0)
    assert np.isnan(second["age"])
    assert np.isnan(second["ivt"])
    assert (second["etici"], second["final_stenosis_pct"]) == ("3", 50.0)
    assert cohort.ignored == ("shoe_size",)
    assert not cohort.has_volumes
    assert cohort.volume("001", "cta") is None


def test_every_finding_is_told_at_once(read: Callable[..., Cohort], rows: pd.DataFrame) -> None:
    rows.loc[0, "age"] = "121"
    rows.loc[1, "nihss"] = "43"
    rows.loc[2, "sex"] = "H"
    rows.loc[3, "hypertension"] = "yes"
    rows.loc[4, "etici"] = "2"
    rows.loc[5, "tmax_gt6_ml"] = "1,234"
    rows.loc[6, "cbf_lt30_ml"] = "-1"
    rows.loc[7, "age"] = "inf"
    rows.loc[8, "final_stenosis_pct"] = "NA"
    rows.loc[9, "patient_id"] = ""
    rows.loc[11, "patient_id"] = "010"
    with pytest.raises(CohortError) as caught:
        read(rows.drop(columns=["diabetes", "tmax_gt10_ml"]).rename(columns={"smoking": "smokin"}))
    assert findings(caught) == {
        ("000", "age"),
        ("001", "nihss"),
        ("002", "sex"),
        ("003", "hypertension"),
        ("004", "etici"),
        ("005", "tmax_gt6_ml"),
        ("006", "cbf_lt30_ml"),
        ("007", "age"),
        ("008", "rlvo"),
        (None, "patient_id"),
        ("010", "patient_id"),
        (None, "diabetes"),
        (None, "smoking"),
        (None, "tmax_gt10_ml"),
    }
    text = str(caught.value)
    assert "patient 000, age: '121' is not allowed. Allowed: 0 to 120 years" in text
    assert "tmax_gt10_ml: the column is missing, and hir needs it" in text
    assert "Is it the column 'smokin'?" in text


def test_decimal_commas_are_numbers_where_the_comma_is_free(tmp_path: Path, rows: pd.DataFrame) -> None:
    rows.loc[0, "age"] = "70,5"
    for column in ("cbf_lt30_ml", "tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml"):
        rows[column] = rows[column].str.replace(".", ",")
    rows.to_csv(tmp_path / "c.csv", index=False, sep=";")
    assert read_cohort(tmp_path / "c.csv", need_volumes=False).table.loc["000", "age"] == 70.5
    rows.loc[1, "age"] = "70.5"
    rows.to_csv(tmp_path / "c.csv", index=False, sep=";")
    with pytest.raises(CohortError, match=r"decimal commas \(70,5\) and decimal points \(70\.5\)"):
        read_cohort(tmp_path / "c.csv", need_volumes=False)


def test_xlsx_equals_csv(tmp_path: Path, rows: pd.DataFrame, read: Callable[..., Cohort]) -> None:
    typed = rows.copy()
    for column in typed.columns.difference(["patient_id", "sex", "occlusion_side", "occlusion_site", "etici"]):
        typed[column] = pd.to_numeric(typed[column])
    typed.to_excel(tmp_path / "c.xlsx", index=False)
    pd.testing.assert_frame_equal(read_cohort(tmp_path / "c.xlsx", need_volumes=False).table, read(rows).table)


def test_volumes_are_found_beside_the_table_or_are_findings(
    tmp_path: Path, rows: pd.DataFrame, read: Callable[..., Cohort]
) -> None:
    for patient in rows["patient_id"]:
        (tmp_path / "scans" / patient / "dicom").mkdir(parents=True)
        (tmp_path / "scans" / patient / "a.nii.gz").touch()
    rows["ncct"], rows["cta"] = (rows["patient_id"].map(f"scans/{{}}/{name}".format) for name in ("a.nii.gz", "dicom"))
    rows.loc[1, "cta"] = ""
    cohort = read(rows, need_volumes=True)
    assert cohort.has_volumes
    assert cohort.volume("000", "ncct") == tmp_path.resolve() / "scans" / "000" / "a.nii.gz"
    assert cohort.volume("001", "cta") is None
    assert cohort.volume("000", "vessels") is None
    rows.loc[2, "cta"] = "scans/b.nii.gz"
    rows.loc[3, "ncct"] = rows.loc[4, "ncct"]
    with pytest.raises(CohortError) as caught:
        read(rows)
    assert findings(caught) == {("002", "cta"), ("004", "ncct")}
    assert "patient 002, cta: no such file: scans/b.nii.gz" in str(caught.value)
    assert "patient 004, ncct: is also that of patient 003" in str(caught.value)


def test_one_image_column_is_not_enough_and_none_is_a_tabular_cohort(
    rows: pd.DataFrame, read: Callable[..., Cohort]
) -> None:
    assert not read(rows).has_volumes
    with pytest.raises(CohortError) as caught:
        read(rows, need_volumes=True)
    assert findings(caught) == {(None, "ncct"), (None, "cta")}
    with pytest.raises(CohortError) as caught:
        read(rows.assign(ncct=""))
    assert findings(caught) == {(None, "cta")}


def test_an_excluded_patient_needs_no_label(rows: pd.DataFrame, read: Callable[..., Cohort]) -> None:
    rows.loc[0, "rescue_treatment"] = rows.loc[0, "final_stenosis_pct"] = rows.loc[0, "etici"] = ""
    with pytest.raises(CohortError, match="patient 000, rlvo: no label"):
        read(rows)
    rows["dsa_occlusion"] = (rows.index > 0).astype(int)
    assert len(read(rows).table) == 40


def test_outcomes_are_not_needed_for_inference(rows: pd.DataFrame, read: Callable[..., Cohort]) -> None:
    bare = rows.drop(columns=["final_stenosis_pct", "etici", "rescue_treatment", "aspects"])
    assert len(read(bare, need_outcome=False).table) == 40
    with pytest.raises(CohortError, match="rescue_treatment: the column is missing"):
        read(bare)


def test_a_table_in_memory_may_hold_any_scalar() -> None:
    table = pd.DataFrame(
        {
            "patient_id": [7, 8.0, "009"],
            "age": [70, np.float32(71.5), "72"],
            "ivt": [True, np.bool_(False), None],
            "sex": ["F", None, float("nan")],
            "etici": [3, "2B50", pd.NA],
            "cta": [None, None, None],
        },
        dtype=object,
    )
    typed, found = examine_table(table)
    assert not found
    assert list(typed.index) == ["7", "8", "009"]
    assert list(typed["age"]) == [70, 71.5, 72]
    assert list(typed["etici"][:2]) == ["3", "2b50"]
    assert pd.isna(typed["etici"].iloc[2])
    assert list(typed["ivt"][:2]) == [1, 0]
    assert np.isnan(typed["ivt"].iloc[2])
    assert typed["cta"].isna().all()


def test_what_is_wrong_in_memory_is_returned_and_missing_in_the_table() -> None:
    typed, found = examine_table(
        pd.DataFrame({"patient_id": ["a", "b", "b"], "age": [200, [1, 2], 50], "cta": [None, "nowhere.nii", None]}),
        folder=Path("/nonexistent"),
    )
    assert {(f.patient, f.field) for f in found} == {("a", "age"), ("b", "age"), ("b", "cta"), ("b", "patient_id")}
    assert list(typed["age"].isna()) == [True, True, False]
    assert typed["cta"].isna().all()
    with pytest.raises(RlvoError, match="patient_id"):
        examine_table(pd.DataFrame({"age": [1]}))


def test_check_table_refuses_what_read_cohort_would(rows: pd.DataFrame) -> None:
    assert len(check_table(rows, need_outcome=True)) == 40
    with pytest.raises(CohortError, match="age: the column is missing"):
        check_table(rows.drop(columns="age"))
    with pytest.raises(RlvoError, match="etici is an outcome"):
        check_table(rows, ("age", "etici"))


def test_an_empty_table_in_memory_is_typed_too() -> None:
    typed, found = examine_table(pd.DataFrame({"patient_id": [], "age": [], "sex": []}))
    assert typed.empty
    assert not found


def test_data_hash_sees_labels_and_predictors_only(rows: pd.DataFrame, read: Callable[..., Cohort]) -> None:
    ids = [f"{i:03d}" for i in range(20)]
    before = data_hash(read(rows), ids, PAPER_PREDICTORS)
    assert data_hash(read(rows.sample(frac=1, random_state=0)), ids[::-1], PAPER_PREDICTORS) == before
    assert data_hash(read(rows.assign(aspects="7")), ids, PAPER_PREDICTORS) == before
    assert data_hash(read(rows), ids[:-1], PAPER_PREDICTORS) != before
    for row, column, value in [(0, "age", "39"), (0, "age", ""), (5, "rescue_treatment", "1")]:
        changed = rows.copy()
        changed.loc[row, column] = value
        assert data_hash(read(changed), ids, PAPER_PREDICTORS) != before
    outside = rows.copy()
    outside.loc[30, "age"] = "39"
    assert data_hash(read(outside), ids, PAPER_PREDICTORS) == before
