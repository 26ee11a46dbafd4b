"""Who of another cohort counts, and what of it a model is given."""

import json
from pathlib import Path
from typing import Any

import nibabel
import pandas as pd
import pytest
from support.tiny_study import TinyStudy

from rlvo.config.workdir import Workdir
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.errors import CohortError, RlvoError
from rlvo.files import atomic_write
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.inference.description import DESCRIPTION, describe, write_model_folder
from rlvo.progress import no_progress
from rlvo.registry.location import ARTIFACT_PATH, write_manifest
from rlvo.registry.register import package_model
from rlvo.workflows.external import answers_folder, open_external, read_external

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


def test_an_empty_column_is_as_good_as_none(tmp_path: Path) -> None:
    found = read_external(write(tmp_path, smoking=["", " ", "", ""]), COLUMNS)
    assert found.lacking == ("smoking",)
    with pytest.raises(CohortError, match="smoking"):
        read_external(write(tmp_path / "unreadable", smoking=["perhaps"] * 4), COLUMNS)


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


@pytest.mark.slow
def test_patients_on_whose_scans_a_network_was_pretrained_are_refused(
    study: TinyStudy, specs: dict[str, EnsembleSpec], tmp_path: Path
) -> None:
    """They are known by a file and, if its format has changed, by the prepared volume; a wrong file stops nothing."""
    target, theirs, work = Target(grid=study.config.grid), study.cohort.parent, Workdir.at(tmp_path / "work")
    rows = study.raw.head(4).astype({"cta": object})
    for role in ("ncct", "cta"):
        rows[role] = [str(theirs / place) for place in rows[role]]
    rows["vessels"] = None
    files = {role: Path(rows.loc[2, role]) for role in ("ncct", "cta")}
    elsewhere = VolumeStore(tmp_path / "where it was pretrained")
    prepared = prepare_cohort({"2": files}, target, elsewhere, workers=1).prepared["2"]
    nibabel.save(nibabel.load(files["ncct"]), tmp_path / "2.nii")
    (tmp_path / "damaged.nii.gz").write_bytes(b"no volume")
    rows.loc[2, "ncct"], rows.loc[3, "cta"] = str(tmp_path / "2.nii"), str(tmp_path / "damaged.nii.gz")
    rows.assign(patient_id=[f"B-{i}" for i in range(4)]).to_csv(table := tmp_path / "elsewhere.csv", index=False)

    def model(name: str, seen: frozenset[str]) -> str:
        described = describe(specs["NCCT"], study.encoders, target, seen_scans=seen)
        write_model_folder(tmp_path / name / "model", described, study.weights)
        package_model(tmp_path / name / "model", tmp_path / name / "package", "# A card\n")
        return str(tmp_path / name / "package")

    told = "the model's networks were pretrained on scans of 1 of these patients, say B-"
    other, by_file = model("other", frozenset({"0123456789abcdef"})), elsewhere.scans({"cta": Path(rows.loc[1, "cta"])})
    with pytest.raises(RlvoError, match=f"{told}1"):
        open_external([model("by file", by_file)], table, work)
    with pytest.raises(RlvoError, match=f"{told}1"):
        open_external([other, str(tmp_path / "by file" / "package")], table, work)
    volumes = elsewhere.scans(files, prepared.address) - elsewhere.scans(files)
    by_volume = model("by volume", volumes)
    with pytest.raises(RlvoError, match=f"{told}2"):
        open_external([by_volume], table, work)

    question = open_external([other], table, work)
    assert not [shift for shift in question.shifts if "pretrained" in shift]
    answers = question.ask(0, no_progress, "patients")
    assert answers["score"].notna().to_dict() == {"B-0": True, "B-1": True, "B-2": True, "B-3": False}

    description = Path(by_volume) / ARTIFACT_PATH / DESCRIPTION
    atomic_write(description, json.dumps(json.loads(description.read_bytes()) | {"preparation": "another rlvo's"}))
    write_manifest(Path(by_volume))
    [shift] = [each for each in open_external([by_volume], table, work).shifts if "pretrained" in each]
    assert "known by file alone" in shift
