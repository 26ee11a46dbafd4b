from pathlib import Path

import pandas as pd
import pytest

from rlvo.cohort.mapping import misspelt_columns, parse_map, read_mapping, suggest_column
from rlvo.cohort.reading import read_cohort
from rlvo.cohort.tables import RawTable, read_table
from rlvo.errors import CohortError, RlvoError

THEIRS = {"patient_id": "NHC", "age": "Edad (años)", "tmax_gt6_ml": "Tmax>6", "etici": "TICI final"}


@pytest.fixture
def table(tmp_path: Path, rows: pd.DataFrame) -> Path:
    """The sound table under another registry's column names."""
    path = tmp_path / "cohort.csv"
    rows.rename(columns=THEIRS).to_csv(path, index=False)
    return path


def test_a_mapped_table_reads_as_ours(table: Path, rows: pd.DataFrame, tmp_path: Path) -> None:
    rows.to_csv(tmp_path / "ours.csv", index=False)
    ours = read_cohort(tmp_path / "ours.csv", need_volumes=False)
    (tmp_path / "map.yaml").write_text("".join(f"{ours}: '{theirs}'\n" for ours, theirs in THEIRS.items()))
    for mapping in (parse_map(*(f"{o} = {t.upper()}" for o, t in THEIRS.items())), read_mapping(tmp_path / "map.yaml")):
        pd.testing.assert_frame_equal(read_cohort(table, need_volumes=False, mapping=mapping).table, ours.table)


def test_a_mapped_workbook_is_found_among_its_sheets(table: Path, tmp_path: Path) -> None:
    with pd.ExcelWriter(tmp_path / "c.xlsx") as book:
        pd.DataFrame({"read": ["me"]}).to_excel(book, sheet_name="notes", index=False)
        pd.read_csv(table, dtype=str).to_excel(book, sheet_name="data", index=False)
    from_sheet, from_text = (
        read_cohort(path, need_volumes=False, mapping=THEIRS).table for path in (tmp_path / "c.xlsx", table)
    )
    pd.testing.assert_frame_equal(from_sheet, from_text)


def test_names_are_suggested_but_never_assumed(table: Path) -> None:
    with pytest.raises(CohortError) as caught:
        read_cohort(table, need_volumes=False)
    assert "patient_id: the column is missing. Is it the column 'nhc'? Rename it or map it (patient_id=nhc)" in str(
        caught.value
    )
    assert suggest_column("dyslipidemia", ["hyperlipidemia"]) == "hyperlipidemia"
    assert suggest_column("atrial_fibrillation", ["sex", "Atrial fibrillation"]) == "Atrial fibrillation"
    assert suggest_column("unwitnessed_onset", ["wake-up"]) == "wake-up"
    assert suggest_column("age", ["glucose"]) is None


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"agee": "Edad (años)"}, r"'agee' is not one of rlvo's columns \(did you mean 'age'\?\)"),
        ({"age": "Edad"}, r"the table has no column 'edad' \(did you mean 'edad \(años\)'\?\)"),
        ({"sex": "Tmax>6"}, "the table already has a column 'sex'"),
        ({"age": "nihss"}, "'nihss' is itself one of rlvo's columns"),
        ({"age": "Tmax>6", "tmax_gt6_ml": "Tmax>6"}, "'tmax>6' is mapped to more than one column"),
        ({"tmax_gt6_ml": "TICI final"}, "'tici final' is known only after the procedure"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(table: Path, mapping: dict[str, str], says: str) -> None:
    with pytest.raises(RlvoError, match=f"columns? names cannot be mapped: .*{says}"):
        read_cohort(table, need_volumes=False, mapping=mapping)


def test_everything_wrong_with_a_mapping_is_reported_at_once(table: Path) -> None:
    with pytest.raises(RlvoError, match=r"agee.*lado.*sex"):
        read_cohort(table, need_volumes=False, mapping={"agee": "NHC", "occlusion_side": "lado", "sex": "Tmax>6"})


@pytest.mark.parametrize("items", [("age",), ("=Edad",), ("age=",), ("age=Edad", "age=Alter"), ("",)])
def test_items_that_are_not_a_mapping_are_refused(items: tuple[str, ...]) -> None:
    with pytest.raises(RlvoError, match="--map"):
        parse_map(*items)


@pytest.mark.parametrize(
    "content",
    ["- age", "age", "age: [a, b]", "age: Edad\nage: Alter", "a: b: c", "", "age: 1.5", "age: ''", "[" * 5000],
)
def test_files_that_are_not_a_mapping_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "map.yaml").write_text(content)
    with pytest.raises(RlvoError, match=r"map\.yaml"):
        read_mapping(tmp_path / "map.yaml")
    with pytest.raises(RlvoError, match="no such mapping file"):
        read_mapping(tmp_path / "none.yaml")


def test_only_columns_that_the_table_does_not_have_can_be_misspelt() -> None:
    names = ["patient_id", "severe_artefact", "lvo", "glucose"]
    assert [finding.field for finding in misspelt_columns(names)] == ["severe_artefact"]
    assert not list(misspelt_columns(["severe_artifact", "severe_artefact"]))
    assert not list(misspelt_columns(["smokin"], reported=["smoking"]))


def test_a_studys_file_maps_as_the_study_does(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: ours\ncohort: {columns: {age: Edad, etici: TICI final}}")
    assert read_mapping(tmp_path / "study.yaml") == {"age": "Edad", "etici": "TICI final"}
    (tmp_path / "study.yaml").write_text("name: ours\n")
    assert read_mapping(tmp_path / "study.yaml") == {}
    (tmp_path / "study.yaml").write_text("cohort: {colums: {age: Edad}}")
    with pytest.raises(RlvoError, match=r"study\.yaml: .*cohort\.colums'; did you mean 'columns'"):
        read_mapping(tmp_path / "study.yaml")


def test_new_patients_may_lack_columns_of_a_studys_mapping(table: Path, rows: pd.DataFrame) -> None:
    ours, lacking = read_table(table, THEIRS), ["age", "etici"]
    rows.drop(columns=lacking).rename(columns=THEIRS).assign(edad=70).to_csv(table, index=False)
    found = read_table(table, THEIRS, partly=True)
    assert found.notes == ("no column 'Edad (años)' for age (did you mean 'edad'?)",)  # outcomes are not missed
    pd.testing.assert_frame_equal(found.cells.drop(columns="edad"), ours.cells.drop(columns=lacking))
    in_memory = RawTable(pd.read_csv(table, dtype=str), decimal_comma=False).renamed(THEIRS, "patients", partly=True)
    assert (in_memory.notes, [*in_memory.cells]) == (found.notes, [*found.cells])
    for mapping, says in (({"agee": "NHC"}, "'agee' is not"), ({"patient_id": "id"}, "the table has no column 'id'")):
        with pytest.raises(RlvoError, match=says):
            read_table(table, mapping, partly=True)
