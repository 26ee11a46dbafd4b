import pandas as pd
import pytest
from support.tiny_study import GRID, TinyStudy

from rlvo.errors import RlvoError
from rlvo.imaging.target import Target
from rlvo.inference.patients import CheckedTable


def test_a_patient_needs_all_volumes_of_one_set(study: TinyStudy) -> None:
    table = study.raw.head(4).astype(object)
    table.loc[1, ["cta", "vessels"]] = None
    table.loc[2, "ncct"] = None
    table.loc[3, "age"] = "old"
    rows = CheckedTable.read(table, study.cohort.parent, ["age"])
    patients = list(rows.prepare(Target(grid=GRID), [("ncct", "cta"), ("cta", "vessels")]))
    assert [patient.id for patient in patients] == table["patient_id"].tolist()
    assert [None if p.volumes is None else set(p.volumes) for p in patients] == [
        {"ncct", "cta", "vessels"},
        None,
        {"cta", "vessels"},
        {"ncct", "cta", "vessels"},
    ]
    warnings = [(), ("not answered: no CTA",), (), ("age: 'old' is not allowed",)]
    assert [patient.warnings for patient in patients] == warnings
    assert pd.isna(patients[3].row["age"].iloc[0])


def test_rows_that_cannot_be_told_apart_are_refused(study: TinyStudy) -> None:
    with pytest.raises(RlvoError, match="more than once"):
        CheckedTable.read(study.raw.iloc[[0, 0]], study.cohort.parent, ["age"])
    with pytest.raises(RlvoError, match="patient_id"):
        CheckedTable.read(study.raw.drop(columns="patient_id"), study.cohort.parent, ["age"])
