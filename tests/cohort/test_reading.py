from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import malformed
from support.malformed import COLUMNS, check_refused, csv, full_rows, workbook, written

from rlvo.cohort.label import derive_label
from rlvo.cohort.reading import Cohort, data_hash, examine_table, read_cohort, volume_paths
from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.errors import CohortError, RlvoError


def read(folder: Path, rows: pd.DataFrame, *, need_volumes: bool = False) -> Cohort:
    """Write a table as CSV and read it, as a tabular cohort unless it needs volumes."""
    return read_cohort(written(folder, csv(rows)), need_volumes=need_volumes)


def findings(error: pytest.ExceptionInfo[CohortError]) -> set[tuple[str | None, str | None]]:
    return {(finding.patient, finding.field) for finding in error.value.findings}


def test_a_sound_table_is_typed(tmp_path: Path, rows: pd.DataFrame) -> None:
    rows.loc[0, ["patient_id", "sex", "occlusion_site", "etici", "hypertension"]] = ["NA", "f", "m1", "2A", "TRUE"]
    rows.loc[1, ["age", "etici", "final_stenosis_pct", "ivt"]] = ["NaN", "3.0", "5e1", "null"]
    cohort = read(tmp_path, rows.assign(shoe_size="43"))
    assert list(cohort.table.index[:3]) == ["NA", "001", "002"]
    first, second = cohort.table.iloc[0], cohort.table.iloc[1]
    assert (first["sex"], first["occlusion_site"], first["etici"], first["hypertension"]) == ("F", "M1", "2a", 1.0)
    assert np.isnan(second["age"])
    assert np.isnan(second["ivt"])
    assert (second["etici"], second["final_stenosis_pct"]) == ("3", 50.0)
    assert cohort.ignored == ("shoe_size",)
    assert not cohort.has_volumes
    assert cohort.selection.included == tuple(cohort.table.index)
    assert cohort.label.dtype == np.int64
    pd.testing.assert_series_equal(cohort.label, derive_label(cohort.included)[0].astype(np.int64))


def test_every_finding_is_reported_at_once(tmp_path: Path, rows: pd.DataFrame) -> None:
    wrong = {
        "000": ("age", "121"), "001": ("nihss", "43"), "002": ("sex", "H"), "003": ("hypertension", "yes"),
        "004": ("etici", "2"), "005": ("tmax_gt6_ml", "1,234"), "006": ("cbf_lt30_ml", "-1"), "007": ("age", "inf"),
    }  # fmt: skip
    for patient, (column, value) in wrong.items():
        rows.loc[int(patient), column] = value
    rows.loc[8, "final_stenosis_pct"] = "NA"
    rows.loc[9, "patient_id"] = ""
    rows.loc[11, "patient_id"] = "010"
    with pytest.raises(CohortError) as caught:
        read(tmp_path, rows.drop(columns=["diabetes", "tmax_gt10_ml"]).rename(columns={"smoking": "smokin"}))
    assert findings(caught) == {
        *((patient, column) for patient, (column, _) in wrong.items()),
        ("008", "rlvo"),
        (None, "patient_id"),
        ("010", "patient_id"),
        (None, "diabetes"),
        (None, "smoking"),
        (None, "tmax_gt10_ml"),
    }
    assert "tmax_gt10_ml: the column is missing, and hir needs it" in str(caught.value)
    assert "Is it the column 'smokin'?" in str(caught.value)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_table_without_its_columns_or_files_is_refused(name: str, tmp_path: Path) -> None:
    check_refused(COLUMNS[name], tmp_path)


def test_the_catalogue_is_large_and_the_rows_it_spoils_are_sound(tmp_path: Path) -> None:
    parts = (malformed.CELLS, malformed.IDS, malformed.COLUMNS, malformed.VALUES, malformed.FILES, malformed.WORKBOOKS)
    assert len(set().union(*parts)) >= 116
    for path in (written(tmp_path, csv(full_rows())), workbook(lambda book: None, "").write(tmp_path, full_rows())):
        assert len(read_cohort(path, need_volumes=False).table) == 40


def test_a_table_with_decimal_commas_is_read(tmp_path: Path, rows: pd.DataFrame) -> None:
    rows.loc[0, "age"] = "70,5"
    for column in ("cbf_lt30_ml", "tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml"):
        rows[column] = rows[column].str.replace(".", ",")
    assert read_cohort(written(tmp_path, csv(rows, sep=";")), need_volumes=False).table.loc["000", "age"] == 70.5


def test_xlsx_equals_csv(tmp_path: Path, rows: pd.DataFrame) -> None:
    rows.loc[0, ["patient_id", "age"]] = ["NA", ""]
    typed = rows.copy()
    for column in typed.columns.difference(["patient_id", "sex", "occlusion_side", "occlusion_site", "etici"]):
        typed[column] = pd.to_numeric(typed[column])
    typed.to_excel(tmp_path / "c.xlsx", index=False)
    pd.testing.assert_frame_equal(
        read_cohort(tmp_path / "c.xlsx", need_volumes=False).table, read(tmp_path, rows).table
    )


def test_volumes_are_found_beside_the_table_or_are_findings(tmp_path: Path, rows: pd.DataFrame) -> None:
    for patient in rows["patient_id"]:
        (tmp_path / "scans" / patient / "dicom").mkdir(parents=True)
        (tmp_path / "scans" / patient / "a.nii.gz").touch()
    rows["ncct"], rows["cta"] = (rows["patient_id"].map(f"scans/{{}}/{name}".format) for name in ("a.nii.gz", "dicom"))
    rows.loc[1, "cta"] = ""
    cohort = read(tmp_path, rows, need_volumes=True)
    assert cohort.has_volumes
    assert cohort.folder == tmp_path.resolve()
    assert "001" not in cohort.label
    paths, scans = volume_paths(cohort.table, cohort.folder), tmp_path.resolve() / "scans"
    assert paths["000"] == {"ncct": scans / "000" / "a.nii.gz", "cta": scans / "000" / "dicom", "vessels": None}
    assert paths["001"]["cta"] is None
    rows.loc[2, "cta"] = "scans/b.nii.gz"
    rows.loc[3, "ncct"] = rows.loc[4, "ncct"]
    with pytest.raises(CohortError) as caught:
        read(tmp_path, rows)
    assert findings(caught) == {("002", "cta"), ("004", "ncct")}
    assert "patient 002, cta: no such file: scans/b.nii.gz" in str(caught.value)
    assert "patient 004, ncct: is also the file of patient 003" in str(caught.value)


def test_without_image_columns_a_cohort_is_tabular(tmp_path: Path, rows: pd.DataFrame) -> None:
    assert not read(tmp_path, rows).has_volumes
    with pytest.raises(CohortError) as caught:
        read(tmp_path, rows, need_volumes=True)
    assert findings(caught) == {(None, "ncct"), (None, "cta")}


def test_an_excluded_patient_needs_no_label(tmp_path: Path, rows: pd.DataFrame) -> None:
    rows.loc[0, "rescue_treatment"] = rows.loc[0, "final_stenosis_pct"] = rows.loc[0, "etici"] = ""
    with pytest.raises(CohortError, match="patient 000, rlvo: no label"):
        read(tmp_path, rows)
    rows["dsa_occlusion"] = (rows.index > 0).astype(int)
    cohort = read(tmp_path, rows)
    assert len(cohort.table) == 40
    assert len(cohort.included) == len(cohort.label) == 39


def test_a_predictor_that_cannot_be_one_is_refused(tmp_path: Path, rows: pd.DataFrame) -> None:
    with pytest.raises(RlvoError, match="etici is an outcome"):
        read_cohort(written(tmp_path, csv(rows)), ("age", "etici"), need_volumes=False)


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
    empty, found = examine_table(pd.DataFrame({"patient_id": [], "age": [], "sex": []}))
    assert empty.empty
    assert not found


def test_wrong_cells_of_a_table_in_memory_are_returned_as_findings_and_missing() -> None:
    typed, found = examine_table(
        pd.DataFrame({"patient_id": ["a", "b", "b"], "age": [200, [1, 2], 50], "cta": [None, "nowhere.nii", None]}),
        folder=Path("/nonexistent"),
    )
    assert {(f.patient, f.field) for f in found} == {("a", "age"), ("b", "age"), ("b", "cta"), ("b", "patient_id")}
    assert list(typed["age"].isna()) == [True, True, False]
    assert typed["cta"].isna().all()
    with pytest.raises(RlvoError, match="patient_id"):
        examine_table(pd.DataFrame({"age": [1]}))


def test_the_data_hash_depends_on_labels_and_predictors_only(tmp_path: Path, rows: pd.DataFrame) -> None:
    ids = [f"{i:03d}" for i in range(20)]

    def hashed(rows: pd.DataFrame, ids: list[str] = ids) -> str:
        cohort = read(tmp_path, rows)
        return data_hash(cohort.table.loc[ids], cohort.label, PAPER_PREDICTORS)

    # A study stores this hash: what was the same data must stay the same data.
    before = hashed(rows)
    assert before.startswith("659b6f0e72e11e7a")
    assert hashed(rows.sample(frac=1, random_state=0), ids[::-1]) == before
    assert hashed(rows.assign(aspects="7")) == before
    assert hashed(rows, ids[:-1]) != before
    for row, column, value in [(0, "age", "39"), (0, "age", ""), (5, "rescue_treatment", "1")]:
        changed = rows.copy()
        changed.loc[row, column] = value
        assert hashed(changed) != before
    outside = rows.copy()
    outside.loc[30, "age"] = "39"
    assert hashed(outside) == before
