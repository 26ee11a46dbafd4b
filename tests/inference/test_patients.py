from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.tiny_study import GRID, TinyStudy

from rlvo.config.predictors import OwnPredictor
from rlvo.errors import RlvoError
from rlvo.imaging.cohort_preparation import find_entry
from rlvo.imaging.prepare import prepare
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.inference.patients import NOT_STORED, CheckedTable


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
    warnings = [(), ("not answered: no CTA",), (), ("age: 'old' is not allowed (allowed: 0 to 120 years)",)]
    assert [patient.warnings for patient in patients] == warnings
    assert pd.isna(patients[3].row["age"].iloc[0])


def test_rows_that_cannot_be_told_apart_are_refused(study: TinyStudy) -> None:
    with pytest.raises(RlvoError, match="more than once"):
        CheckedTable.read(study.raw.iloc[[0, 0]], study.cohort.parent, ["age"])
    with pytest.raises(RlvoError, match="patient_id"):
        CheckedTable.read(study.raw.drop(columns="patient_id"), study.cohort.parent, ["age"])


def test_a_declared_predictor_is_read_from_its_source(study: TinyStudy) -> None:
    own = OwnPredictor(name="siphon", kind="continuous", unit="mm3", range=(0, 2000), source="Calcio (mm3)")
    table = study.raw.head(2).assign(**{"Calcio (mm3)": [10, 20]})
    for given in (table, table.rename(columns={"Calcio (mm3)": "siphon"}), table.assign(siphon=[10, 20])):
        rows = CheckedTable.read(given, study.cohort.parent, ["age", "siphon"], [own])
        assert rows.typed["siphon"].tolist() == [10, 20]


@pytest.mark.parametrize("how", ["files overwritten", "put by hand", "put by hand with figures"])
def test_an_entry_of_the_store_is_not_taken_on_trust(study: TinyStudy, tmp_path: Path, how: str) -> None:
    target, table, store = Target(grid=GRID), study.raw.head(1), VolumeStore(tmp_path / "store")
    files = {name: study.cohort.parent / table[name].iloc[0] for name in ("ncct", "cta", "vessels")}
    sound, address = prepare(target, **files), store.address(target, files)
    noise = {name: np.ones_like(array) for name, array in sound.volumes.items()}
    if how == "files overwritten":
        store.put(address, sound, seconds=0)
        for name, array in noise.items():
            np.save(store.folder(address) / f"{name}.npy", array)
    else:
        figures = sound.figures if "with" in how else {}
        store.put(address, replace(sound, volumes=noise, figures=figures), seconds=0)
    rows = CheckedTable.read(table, study.cohort.parent, ["age"])
    (patient,) = rows.prepare(target, [("ncct", "cta")], store=store)
    assert patient.warnings == (NOT_STORED,)
    assert patient.volumes is not None
    np.testing.assert_array_equal(patient.volumes["ncct"], sound.volumes["ncct"])
    store.discard(address)
    store.put(address, sound, seconds=0)
    (patient,) = rows.prepare(target, [("ncct", "cta")], store=store)
    assert patient.warnings == ()
    assert find_entry(store, address, target, look_again=True) is not None
