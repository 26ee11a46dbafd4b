"""Nobody whom a study has is pretrained on, whatever the patient is called; and every tenth is held back."""

import shutil
from pathlib import Path

import nibabel
import pandas as pd
import pytest
from support.volumes import FOCUS, write_rows

from rlvo.cohort.reading import examine_table
from rlvo.cohort.splits import Split, write_split
from rlvo.config.study import StudyConfig
from rlvo.files import atomic_write
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.study.folder import StudyFolder
from rlvo.study.unlabelled import OwnTable, hold_back, own_tables


@pytest.fixture
def own(tmp_path: Path) -> pd.DataFrame:
    """Rows of a study's table, which is in tmp_path."""
    rows = pd.DataFrame(
        {
            "patient_id": [f"p{i}" for i in range(4)],
            "person": [None, None, "x", None],
            "age": [51.5, 62, 73, 44],
            "cbf_lt30_ml": [3.5, 7.25, 9.5, 11],
            "tmax_gt4_ml": [88.5, 77.5, 66.5, 55.5],
            "tmax_gt6_ml": [44.5, 33.5, 22.5, 11.5],
            "rlvo": [0, 1, 0, 1],
        }
    )
    rows.to_csv(tmp_path / "cohort.csv", index=False)
    return rows


def config(tmp_path: Path, name: str = "small") -> StudyConfig:
    return StudyConfig.model_validate({"name": name, "cohort": {"table": tmp_path / "cohort.csv"}})


def found(table: OwnTable, rows: pd.DataFrame) -> set[str]:
    return {*table.patients(examine_table(rows)[0])}


def test_its_patients_are_known_by_id_values_and_person(own: pd.DataFrame, tmp_path: Path) -> None:
    [table] = own_tables(config(tmp_path), [])
    strangers = pd.DataFrame({"patient_id": ["p1", "q0", "q1", "q2", "q3"], "person": [None, None, "x", "y", None]})
    assert found(table, strangers) == {"p1", "q1"}
    assert found(table, strangers.drop(columns="person")) == {"p1"}
    renamed = own.drop(columns=["rlvo", "person"]).assign(patient_id=["q0", "q1", "q2", "q3"])
    assert found(table, renamed) == {"q0", "q1", "q2", "q3"}, "by perfusion"
    assert found(table, renamed.assign(cbf_lt30_ml=1.5, person=["z", "z", None, None])) == set()
    half = renamed.assign(cbf_lt30_ml=[3.5, 1.5, 1.5, 1.5], person=["z", "z", None, None])
    assert found(table, half) == {"q0", "q1"}, "another row of the same person"


def test_ids_of_its_split_count_if_its_table_is_gone(own: pd.DataFrame, tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "studies" / "small")
    atomic_write(study.config, config(tmp_path).model_dump_json())
    write_split(Split(test=("p0",), folds=(("p1",), ("p2",))), study.split)
    (tmp_path / "cohort.csv").unlink()
    [table] = own_tables(config(tmp_path), [study])
    assert found(table, own) == {"p0", "p1", "p2"}
    store, target = VolumeStore(tmp_path / "store"), Target(grid=FOCUS)
    assert table.scans(store, target) == (set(), "the table of study small is gone: its patients are known by id alone")
    own.assign(ncct="a.nii.gz", cta=["b.nii.gz", *[None] * 3]).to_csv(tmp_path / "cohort.csv", index=False)
    [table] = own_tables(config(tmp_path), [study])
    nothing, told = table.scans(store, target)
    assert nothing == set()
    assert told is not None
    assert "the scans of 4 patients of study small are not there" in told


def test_a_scan_is_known_under_another_name_and_in_another_format(tmp_path: Path) -> None:
    store, target = VolumeStore(tmp_path / "store"), Target(grid=FOCUS)
    rows = write_rows(tmp_path, ("1", "2"))
    (tmp_path / "copies").mkdir()
    copied = {role: Path(shutil.copy(path, tmp_path / "copies" / f"new-{role}.nii.gz"))
              for role, path in rows["1"].items() if path is not None}  # fmt: skip
    plain = {role: tmp_path / "copies" / f"{role}.nii" for role in copied}
    for role, path in plain.items():
        nibabel.save(nibabel.load(copied[role]), path)
    every = {**rows, "copied": copied, "plain": plain, "half": {"ncct": rows["2"]["ncct"], "cta": copied["cta"]}}
    prepared = prepare_cohort(every, target, store, workers=1).prepared
    scans = {patient: store.scans(every[patient], each.address) for patient, each in prepared.items()}
    assert len(scans["1"]) == 4
    assert not scans["1"] & scans["2"]
    assert scans["copied"] == scans["1"]
    assert len(scans["plain"] & scans["1"]) == 2, "its prepared volumes"
    assert scans["half"] & scans["1"], "one of two scans is enough"
    assert not store.scans(plain) & store.scans(rows["1"]), "as long as they are not prepared"


def test_every_tenth_is_held_back_by_content_and_a_person_as_a_whole() -> None:
    addresses = {f"p{i}": f"{i * 7919:064x}" for i in range(100)}
    alone = {patient: patient for patient in addresses}
    chosen = hold_back(addresses, alone, seed=0)
    assert len(chosen) == 10
    shuffled = dict(sorted(addresses.items(), reverse=True))
    renamed = {f"new {patient}": address for patient, address in shuffled.items()}
    assert hold_back(renamed, {p: p for p in renamed}, seed=0) == {f"new {patient}" for patient in chosen}
    assert hold_back(addresses, alone, seed=1) != chosen
    pairs = {f"p{i}": str(i // 2) for i in range(100)}
    for number in range(100):
        assert (f"p{number}" in hold_back(addresses, pairs, 0)) == (f"p{number ^ 1}" in hold_back(addresses, pairs, 0))
    assert len(hold_back(addresses, pairs, seed=0)) == 10
