"""An answer's SR has what PS3.3 asks of a Basic Text SR, says what the answer says, and is told apart by content."""

import io
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from rlvo.about import NOTICE
from rlvo.report.dicom_sr import AnsweringModel, Instance, answer_report, content_digest, stamp

ANSWER = {
    "patient_id": "a", "rlvo": 1, "score": 0.5, "probability": float("nan"), "votes": 3, "folds": 4, "p_ncct": 0.25,
    "warnings": "nihss: imputed; clipped", "notice": NOTICE,
}  # fmt: skip
MODEL = AnsweringModel("rlvo-ensemble/3", "ab" * 32)
IDENTITY = {"PatientName": "Müller^Иван", "PatientID": "4711", "StudyInstanceUID": "1.2.3"}
IMAGES = [
    Instance("1.2.3", f"1.2.3.{series}", "1.9", f"1.2.3.{series}.{image}") for series in (4, 5) for image in (1, 2)
]
WHEN = datetime(2026, 2, 3, 4, 5, 6)
VALUE = 1
REQUIRED = {
    "PatientName": 2, "PatientID": 2, "PatientBirthDate": 2, "PatientSex": 2,
    "StudyInstanceUID": 1, "StudyDate": 2, "StudyTime": 2, "ReferringPhysicianName": 2, "StudyID": 2,
    "AccessionNumber": 2,
    "Modality": 1, "SeriesInstanceUID": 1, "SeriesNumber": 1, "ReferencedPerformedProcedureStepSequence": 2,
    "Manufacturer": 2,
    "InstanceNumber": 1, "CompletionFlag": 1, "VerificationFlag": 1, "ContentDate": 1, "ContentTime": 1,
    "PerformedProcedureCodeSequence": 2,
    "ValueType": 1, "ConceptNameCodeSequence": 1, "ContinuityOfContent": 1, "ContentSequence": 1,
    "SOPClassUID": 1, "SOPInstanceUID": 1, "SpecificCharacterSet": 1,
}  # fmt: skip
"""Types of the elements of PS3.3 A.35.1: Patient, General Study, SR Document Series, General Equipment, SR Document
General, SR Document Content, SOP Common. 1: with a value, 2: perhaps empty."""


def made(**changed: Any) -> Dataset:
    report = answer_report(ANSWER | changed, MODEL, IDENTITY, IMAGES)
    return pydicom.dcmread(io.BytesIO(stamp(report, WHEN)))


def said(report: Dataset) -> Iterator[tuple[str, str]]:
    for item in report.ContentSequence:
        value = item.get("TextValue") or item.get("UID") or item.ConceptCodeSequence[0].CodeMeaning
        yield item.ConceptNameCodeSequence[0].CodeMeaning, value


def test_every_module_has_what_it_must_have() -> None:
    report = made()
    for keyword, kind in REQUIRED.items():
        assert keyword in report, keyword
        assert report[keyword].VM or kind != VALUE, keyword
    assert report.file_meta.MediaStorageSOPClassUID == report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.11"
    assert (report.Modality, report.CompletionFlag, report.VerificationFlag) == ("SR", "COMPLETE", "UNVERIFIED")
    assert (report.ContentDate, report.ContentTime) == ("20260203", "040506")
    assert str(report.PatientName) == "Müller^Иван"
    kinds = {(item.RelationshipType, item.ValueType) for item in report.ContentSequence}
    context = {("HAS CONCEPT MOD", "CODE"), ("HAS OBS CONTEXT", "CODE"), ("HAS OBS CONTEXT", "UIDREF")}
    assert kinds <= context | {("HAS OBS CONTEXT", "TEXT"), ("CONTAINS", "TEXT"), ("CONTAINS", "CODE")}
    codes = [item.ConceptNameCodeSequence[0] for item in report.ContentSequence]
    assert all(len(code.CodeValue) <= 16 and len(code.CodeMeaning) <= 64 for code in codes)


def test_it_says_what_the_answer_says_and_no_more() -> None:
    found = dict(said(made()))
    assert found["Answer"].startswith("Alert")
    assert found["Votes for an alert"] == "3 of 4 folds"
    assert found["Intended use"] == NOTICE
    assert (found["Model and version"], found["SHA-256 of the model's manifest"]) == (MODEL.name, MODEL.digest)
    assert [text for name, text in said(made()) if name == "Warning"] == ["nihss: imputed", "clipped"]
    assert "+0.500" in found.values()
    assert "0.250" in found.values()
    assert not any("nan" in text for text in found.values())
    assert dict(said(made(rlvo=0)))["Answer"] == "No alert"


def test_a_synthetic_answer_says_so_where_an_archive_lists_it() -> None:
    assert "SYNTHETIC" not in made().SeriesDescription
    assert made(warnings="trained on SYNTHETIC patients").SeriesDescription.startswith("SYNTHETIC")


def test_the_images_are_referred_to_by_study_and_series() -> None:
    other = Instance("9.9", "9.9.1", "1.9", "9.9.1.1")
    report = answer_report(ANSWER, MODEL, IDENTITY, [IMAGES[0], other, *IMAGES[1:]])
    [study], [elsewhere] = report.CurrentRequestedProcedureEvidenceSequence, report.PertinentOtherEvidenceSequence
    assert study.StudyInstanceUID == "1.2.3"
    referred = {
        series.SeriesInstanceUID: [image.ReferencedSOPInstanceUID for image in series.ReferencedSOPSequence]
        for series in study.ReferencedSeriesSequence
    }
    assert referred == {"1.2.3.4": ["1.2.3.4.1", "1.2.3.4.2"], "1.2.3.5": ["1.2.3.5.1", "1.2.3.5.2"]}
    assert elsewhere.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "9.9.1.1"


def test_uids_are_new_each_time_and_the_content_tells_answers_apart() -> None:
    first, second = made(), made()
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert first[keyword].value != second[keyword].value
        assert first[keyword].value.is_valid
    assert first.ContentSequence == second.ContentSequence
    digests = {
        content_digest(answer_report(ANSWER | changed, MODEL, IDENTITY, IMAGES)) for changed in ({}, {}, {"votes": 2})
    }
    assert len(digests) == 2
    alone = answer_report(ANSWER, MODEL, {"PatientID": "a"}, [])
    assert "CurrentRequestedProcedureEvidenceSequence" not in alone
    assert pydicom.dcmread(io.BytesIO(stamp(alone, WHEN))).StudyInstanceUID.is_valid


@pytest.mark.parametrize("value", ["x" * 80, "1.2.003", "Ünbekannt"])
def test_what_the_archive_holds_is_copied_even_if_dicom_does_not_allow_it(value: str) -> None:
    identity = {"PatientID": value, "PatientBirthDate": value, "StudyInstanceUID": "1.2.003"}
    report = stamp(answer_report(ANSWER, MODEL, identity, []), WHEN)
    with pydicom.config.disable_value_validation():
        read = pydicom.dcmread(io.BytesIO(report))
        assert {keyword: str(read[keyword].value) for keyword in identity} == identity
