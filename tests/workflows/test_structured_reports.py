"""Structured reports are filed with the scans, once, and never under another patient."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
from support.catalogue import write_series

from rlvo.about import NOTICE
from rlvo.cohort.tables import RawTable
from rlvo.errors import RlvoError
from rlvo.registry.admission import AdmittedModel
from rlvo.registry.client import PatientTable
from rlvo.registry.model import MANIFEST
from rlvo.workflows.answers import Question
from rlvo.workflows.structured_reports import make_report_folder, write_structured_reports

STUDY = {
    "StudyInstanceUID": "1.2.3",
    "AccessionNumber": "A-5",
    "PatientName": "Müller^Jörg",
    "SpecificCharacterSet": "ISO_IR 100",
}


@pytest.fixture
def question(tmp_path: Path) -> Question:
    """Patients with scans in DICOM, in NIfTI, and of two persons."""
    for role, uid in {"ncct": "1.2.4", "cta": "1.2.5"}.items():
        write_series(tmp_path / role, heights=range(0, 25, 5), SeriesInstanceUID=uid, **STUDY)
    write_series(tmp_path / "other", heights=range(0, 25, 5), PatientID="ANOTHER", **STUDY)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "cta.nii")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / MANIFEST).write_text("{}")
    paths = {"dicom": ("ncct", "cta"), "nifti": (None, "cta.nii"), "mixed": ("other", "cta"), "refused": (None, None)}
    typed = pd.DataFrame.from_dict(paths, orient="index", columns=["ncct", "cta"])
    patients = PatientTable(RawTable(typed.reset_index(names="patient_id"), decimal_comma=False), typed, tmp_path)
    return Question(AdmittedModel("rlvo-ensemble/3", tmp_path / "model", "passed"), patients, (), ())


def answers(**changed: Any) -> pd.DataFrame:
    rows = [
        {"patient_id": patient, "rlvo": None if patient == "refused" else 1, "score": 0.5, "votes": 3, "folds": 4}
        for patient in ("dicom", "nifti", "mixed", "refused")
    ]
    return pd.DataFrame(rows).assign(warnings="", notice=NOTICE, **changed).astype({"rlvo": "Int64"})


def test_patient_and_study_are_those_of_the_scan(question: Question, tmp_path: Path) -> None:
    make_report_folder(tmp_path / "sr")
    written = write_structured_reports(question, answers(), tmp_path / "sr")
    dicom, nifti = (pydicom.dcmread(file) for file in written.files)
    assert (dicom.PatientID, dicom.StudyInstanceUID, dicom.AccessionNumber) == ("SECRET", "1.2.3", "A-5")
    assert str(dicom.PatientName) == "Müller^Jörg"
    [study] = dicom.CurrentRequestedProcedureEvidenceSequence
    counts = {series.SeriesInstanceUID: len(series.ReferencedSOPSequence) for series in study.ReferencedSeriesSequence}
    assert counts == {"1.2.4": 5, "1.2.5": 5}
    assert dicom.SeriesInstanceUID not in counts
    assert (nifti.PatientID, nifti.StudyInstanceUID.is_valid) == ("nifti", True)
    assert written.unfiled == 1
    assert {file.stat().st_mode & 0o777 for file in written.files} == {0o600}
    assert (tmp_path / "sr").stat().st_mode & 0o777 == 0o700


def test_scans_of_two_patients_are_filed_under_neither(question: Question, tmp_path: Path) -> None:
    make_report_folder(tmp_path / "sr")
    [finding] = write_structured_reports(question, answers(), tmp_path / "sr").findings
    assert finding.patient == "mixed"
    assert "different patient ids" in str(finding)
    assert not any("mixed" in file.name for file in (tmp_path / "sr").iterdir())


def test_the_same_answers_give_no_second_report_and_others_replace_none(question: Question, tmp_path: Path) -> None:
    folder = tmp_path / "sr"
    make_report_folder(folder)
    first = write_structured_reports(question, answers(), folder)
    before = {file: file.read_bytes() for file in first.files}
    make_report_folder(folder)
    again = write_structured_reports(question, answers(), folder)
    assert (again.files, again.unchanged, again.earlier) == (first.files, 2, 0)
    other = write_structured_reports(question, answers(p_cta=0.5), folder)
    assert (other.unchanged, other.earlier) == (0, 2)
    assert {file: file.read_bytes() for file in first.files} == before


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RlvoError, match=r"something other than structured reports of rlvo \(mine.txt\)"):
        make_report_folder(tmp_path)
    with pytest.raises(RlvoError, match="cannot be written"):
        make_report_folder(tmp_path / "mine.txt")


@pytest.mark.parametrize("patient", ["x" * 65, "a\\b"])
def test_an_id_that_dicom_cannot_hold_is_said(question: Question, tmp_path: Path, patient: str) -> None:
    make_report_folder(tmp_path / "sr")
    table = replace(question.patients, typed=question.patients.typed.rename(index={"nifti": patient}))
    changed = answers().replace({"patient_id": {"nifti": patient}})
    written = write_structured_reports(replace(question, patients=table), changed, tmp_path / "sr")
    assert [finding.patient for finding in written.findings] == [patient, "mixed"]
    assert len(written.files) == 1


def test_a_synthetic_patient_is_said_to_be_one_whatever_the_model_knows(question: Question, tmp_path: Path) -> None:
    make_report_folder(tmp_path / "sr")
    name = "synth-00001"
    table = replace(question.patients, typed=question.patients.typed.rename(index={"nifti": name}))
    changed = answers().replace({"patient_id": {"nifti": name}})
    dicom, synthetic = write_structured_reports(replace(question, patients=table), changed, tmp_path / "sr").files
    assert pydicom.dcmread(synthetic).SeriesDescription.startswith("SYNTHETIC")
    assert "SYNTHETIC" not in pydicom.dcmread(dicom).SeriesDescription
