"""An answer as a DICOM Basic Text SR, for an archive that files it with the scan (PS3.3 A.35.1, C.17)."""

import hashlib
import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple

import pandas as pd
from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, BasicTextSRStorage, ExplicitVRLittleEndian, generate_uid

from rlvo.about import code_version

SCHEME = "99RLVO"
EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber",
)  # fmt: skip
"""What an SR may leave empty, but not out (type 2)."""
LONGEST = 64
"""Characters of a value of the type "long string"."""


class Code(NamedTuple):
    """A coded concept; rlvo's own scheme (99RLVO) has what no standard names."""

    value: str
    meaning: str
    scheme: str = SCHEME


TITLE = Code("RLVO", "Prediction of refractory large-vessel occlusion")
ALERT, NO_ALERT = Code("ALERT", "Alert: expect a difficult recanalisation"), Code("NOALERT", "No alert")
LANGUAGE = Code("121049", "Language of Content Item and Descendants", "DCM")
OBSERVER, DEVICE = Code("121005", "Observer Type", "DCM"), Code("121007", "Device", "DCM")
DEVICE_UID, DEVICE_NAME = Code("121012", "Device Observer UID", "DCM"), Code("121013", "Device Observer Name", "DCM")
NUMBERS = {
    "score": Code("SCORE", "Score: mean margin over the thresholds of the folds"),
    "probability": Code("PROBABILITY", "Calibrated probability of a refractory occlusion"),
    "p_ncct": Code("P_NCCT", "Mean probability of the NCCT networks"),
    "p_cta": Code("P_CTA", "Mean probability of the CTA networks"),
    "p_both": Code("P_BOTH", "Mean probability of the NCCT + CTA networks"),
}
"""By the answer's column."""


@dataclass(frozen=True)
class Instance:
    """An image that the answer rests on."""

    study: str
    series: str
    sop_class: str
    uid: str


@dataclass(frozen=True)
class AnsweringModel:
    """A model's name, with its version, and the SHA-256 of its manifest."""

    name: str
    digest: str


def answer_report(
    answer: Mapping[str, Any], model: AnsweringModel, identity: Mapping[str, str], images: Sequence[Instance]
) -> Dataset:
    """The SR of an answer, but for its UIDs and the time (`stamp`): the same answer gives the same content.

    Args:
        answer: a row of the model's answers, with an answer in it.
        identity: patient and study (`read_identity`); without a StudyInstanceUID, the SR is of a study of its own.
        images: what the answer rests on.
    """
    warnings = [warning for warning in str(answer["warnings"]).split("; ") if warning]
    synthetic = "SYNTHETIC, " if any("SYNTHETIC" in warning for warning in warnings) else ""
    report = Dataset()
    report.SpecificCharacterSet = "ISO_IR 192"
    report.SOPClassUID = BasicTextSRStorage
    for keyword, value in {**dict.fromkeys(EMPTY, ""), **identity}.items():
        # As it stands there, even if the standard does not allow it: the archive has the study under these values.
        report.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE))
    report.Modality = "SR"
    report.SeriesDescription = f"{synthetic}rlvo: research alert, not a diagnosis"
    report.SeriesNumber = report.InstanceNumber = 1
    report.ReferencedPerformedProcedureStepSequence = []
    report.PerformedProcedureCodeSequence = []
    report.Manufacturer = "rlvo"
    report.ManufacturerModelName = model.name[:LONGEST]
    report.SoftwareVersions = code_version()[:LONGEST]
    report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
    report.CodingSchemeIdentificationSequence = [_dataset(CodingSchemeDesignator=SCHEME, CodingSchemeName="rlvo")]
    own = [image for image in images if image.study == identity.get("StudyInstanceUID")]
    others = [image for image in images if image not in own]
    if own:
        report.CurrentRequestedProcedureEvidenceSequence = _evidence(own)
    if others:
        report.PertinentOtherEvidenceSequence = _evidence(others)
    report.ValueType, report.ContinuityOfContent = "CONTAINER", "SEPARATE"
    report.ConceptNameCodeSequence = [_code(TITLE)]
    report.ContentSequence = [
        _coded("HAS CONCEPT MOD", LANGUAGE, Code("en", "English", "RFC5646")),
        _coded("HAS OBS CONTEXT", OBSERVER, DEVICE),
        _item("HAS OBS CONTEXT", "UIDREF", DEVICE_UID, UID=_uid_of(model.digest)),
        _text(DEVICE_NAME, f"rlvo, model {model.name}", "HAS OBS CONTEXT"),
        _text(Code("INTENDED_USE", "Intended use"), str(answer["notice"])),
        _coded("CONTAINS", Code("ANSWER", "Answer"), ALERT if answer["rlvo"] else NO_ALERT),
        _text(Code("VOTES", "Votes for an alert"), f"{answer['votes']} of {answer['folds']} folds"),
        *(
            _text(name, f"{answer[column]:+.3f}" if column == "score" else f"{answer[column]:.3f}")
            for column, name in NUMBERS.items()
            if not pd.isna(answer.get(column))
        ),
        *(_text(Code("WARNING", "Warning"), warning) for warning in warnings),
        _text(Code("MODEL", "Model and version"), model.name),
        _text(Code("DIGEST", "SHA-256 of the model's manifest"), model.digest),
    ]
    return report


def content_digest(report: Dataset) -> str:
    """SHA-256 of an SR's content; `report` is not stamped yet."""
    return hashlib.sha256(report.to_json().encode()).hexdigest()


def stamp(report: Dataset, when: datetime) -> bytes:
    """Give an SR new UIDs and the time it was made; return it as a DICOM file."""
    report.SOPInstanceUID, report.SeriesInstanceUID = generate_uid(prefix=None), generate_uid(prefix=None)
    if "StudyInstanceUID" not in report:
        report.StudyInstanceUID = generate_uid(prefix=None)
    report.ContentDate = report.InstanceCreationDate = report.SeriesDate = f"{when:%Y%m%d}"
    report.ContentTime = report.InstanceCreationTime = report.SeriesTime = f"{when:%H%M%S}"
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = io.BytesIO()
    report.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _evidence(images: Sequence[Instance]) -> list[Dataset]:
    """The images by study and series (PS3.3 C.17.2)."""

    def by_series(of_study: Sequence[Instance]) -> list[Dataset]:
        return [
            _dataset(
                SeriesInstanceUID=series,
                ReferencedSOPSequence=[
                    _dataset(ReferencedSOPClassUID=image.sop_class, ReferencedSOPInstanceUID=image.uid)
                    for image in of_series
                ],
            )
            for series, of_series in groupby(of_study, lambda image: image.series)
        ]

    in_order = sorted(images, key=lambda image: (image.study, image.series))
    return [
        _dataset(StudyInstanceUID=study, ReferencedSeriesSequence=by_series(list(of_study)))
        for study, of_study in groupby(in_order, lambda image: image.study)
    ]


def _text(name: Code, text: str, relationship: str = "CONTAINS") -> Dataset:
    return _item(relationship, "TEXT", name, TextValue=text)


def _coded(relationship: str, name: Code, value: Code) -> Dataset:
    return _item(relationship, "CODE", name, ConceptCodeSequence=[_code(value)])


def _item(relationship: str, kind: str, name: Code, **value: Any) -> Dataset:
    return _dataset(RelationshipType=relationship, ValueType=kind, ConceptNameCodeSequence=[_code(name)], **value)


def _code(code: Code) -> Dataset:
    return _dataset(CodeValue=code.value, CodingSchemeDesignator=code.scheme, CodeMeaning=code.meaning)


def _dataset(**elements: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def _uid_of(digest: str) -> UID:
    """The same for the same digest (PS3.5 B.2: a UUID as an integer below 2.25)."""
    return UID(f"2.25.{uuid.UUID(hex=digest[:32], version=4).int}")
