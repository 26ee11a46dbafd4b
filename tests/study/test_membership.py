"""Patients of a table who belong to a study."""

from pathlib import Path

import pandas as pd
import pytest

from rlvo.cohort.reading import examine_table
from rlvo.cohort.splits import Split, write_split
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError
from rlvo.files import atomic_write
from rlvo.study.folder import StudyFolder
from rlvo.study.membership import refuse_held_out, shared_patients


@pytest.fixture
def studied(tmp_path: Path) -> tuple[StudyFolder, pd.DataFrame]:
    """A study of six patients, two of them held out, and their rows."""
    rows = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(6)],
            "age": [51.5, 62, 73, 44, None, 66],
            "sex": ["F", "M"] * 3,
            "nihss": [4, 5, 6, 7, 8, 9],
            "occlusion_side": ["left", "right"] * 3,
        }
    )
    rows.to_csv(tmp_path / "cohort.csv", index=False)
    cohort = {"table": tmp_path / "cohort.csv", "predictors": ("age", "sex", "nihss", "occlusion_side")}
    study = StudyFolder(tmp_path / "studies" / "small")
    atomic_write(study.config, StudyConfig.model_validate({"name": "small", "cohort": cohort}).model_dump_json())
    write_split(Split(test=("p0", "p4"), folds=(("p1", "p2"), ("p3", "p5"))), study.split)
    return study, rows


def shared(rows: pd.DataFrame, study: StudyFolder) -> tuple[tuple[str, ...], tuple[str, ...]]:
    [found] = shared_patients(examine_table(rows)[0], [study])
    return found.test, found.development


def test_its_patients_are_found_by_part(studied: tuple[StudyFolder, pd.DataFrame]) -> None:
    study, rows = studied
    assert shared(rows, study) == (("p0", "p4"), ("p1", "p2", "p3", "p5"))
    assert shared(rows.iloc[[5, 0]].drop(columns=["nihss", "sex"]), study) == (("p0",), ("p5",))
    assert shared(rows.iloc[:2].assign(age=None), study) == (("p0",), ("p1",))


def test_another_hospitals_patient_of_the_same_id_is_another(studied: tuple[StudyFolder, pd.DataFrame]) -> None:
    study, rows = studied
    assert shared(rows.assign(age=rows["age"].fillna(60) + 1, nihss=20), study) == ((), ())
    assert shared(rows.assign(patient_id=[f"q{i}" for i in range(6)]), study) == ((), ())


def test_ids_decide_if_the_studys_table_is_gone(studied: tuple[StudyFolder, pd.DataFrame]) -> None:
    study, rows = studied
    (study.path.parents[1] / "cohort.csv").unlink()
    assert shared(rows.assign(nihss=20).iloc[:2], study) == (("p0",), ("p1",))


def test_a_study_that_was_never_split_has_no_patients(
    studied: tuple[StudyFolder, pd.DataFrame], tmp_path: Path
) -> None:
    assert shared_patients(examine_table(studied[1])[0], [StudyFolder(tmp_path / "begun")]) == []


def test_one_patient_is_refused_only_if_that_one_is_held_out(studied: tuple[StudyFolder, pd.DataFrame]) -> None:
    study, rows = studied
    table = examine_table(rows)[0]
    [found] = refuse_held_out(table, [study], "here", asked="p1")
    assert found.test == ("p0", "p4")
    with pytest.raises(RlvoError, match="here: the patient belongs to the hold-out of study small"):
        refuse_held_out(table, [study], "here", asked="p4")
    with pytest.raises(RlvoError, match="2 of these patients are the hold-out of study small, say p0"):
        refuse_held_out(table, [study], "here")
