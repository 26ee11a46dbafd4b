"""Patients of a table who belong to a study."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from rlvo.cohort.reading import check_table
from rlvo.cohort.splits import Split, write_split
from rlvo.config.study import StudyConfig
from rlvo.search.membership import shared_patients
from rlvo.search.status import STUDY
from rlvo.search.study import SPLIT

PREDICTORS = ("age", "sex", "nihss", "occlusion_side")


@pytest.fixture
def studied(tmp_path: Path, make_study: Callable[..., StudyConfig]) -> tuple[Path, pd.DataFrame]:
    """Folder of a study of six patients, two of them held out, and their rows."""
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
    study = make_study(cohort={"table": tmp_path / "cohort.csv", "predictors": PREDICTORS})
    folder = tmp_path / "studies" / study.name
    folder.mkdir(parents=True)
    (folder / STUDY).write_text(study.model_dump_json())
    write_split(Split(test=("p0", "p4"), folds=(("p1", "p2"), ("p3", "p5"))), folder / SPLIT)
    return folder, rows


def shared(rows: pd.DataFrame, folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    [found] = shared_patients(check_table(rows, ["age"]), [folder])
    return found.test, found.development


def test_its_patients_are_found_by_part(studied: tuple[Path, pd.DataFrame]) -> None:
    folder, rows = studied
    assert shared(rows, folder) == (("p0", "p4"), ("p1", "p2", "p3", "p5"))
    assert shared(rows.iloc[[5, 0]].drop(columns=["nihss", "sex"]), folder) == (("p0",), ("p5",))
    assert shared(rows.iloc[:2].assign(age=None), folder) == (("p0",), ("p1",))


def test_another_hospitals_patient_of_the_same_id_is_another(studied: tuple[Path, pd.DataFrame]) -> None:
    folder, rows = studied
    assert shared(rows.assign(age=rows["age"].fillna(60) + 1, nihss=20), folder) == ((), ())
    assert shared(rows.assign(patient_id=[f"q{i}" for i in range(6)]), folder) == ((), ())


def test_ids_decide_where_the_studys_table_is_gone(studied: tuple[Path, pd.DataFrame]) -> None:
    folder, rows = studied
    (folder.parents[1] / "cohort.csv").unlink()
    assert shared(rows.assign(nihss=20).iloc[:2], folder) == (("p0",), ("p1",))


def test_a_study_that_was_never_split_has_no_patients(studied: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    assert shared_patients(check_table(studied[1], ["age"]), [tmp_path / "begun"]) == []
