"""Answers as DICOM structured reports, filed with the scans they rest on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pandas as pd

from rlvo.errors import Finding, RlvoError
from rlvo.files import atomic_write, file_sha256
from rlvo.imaging.reading.dicom_identity import read_identity
from rlvo.imaging.reading.dicom_series import Role, Series
from rlvo.imaging.reading.source import locate_source
from rlvo.registry.location import is_folder
from rlvo.registry.model import MANIFEST
from rlvo.report.dicom_sr import LONGEST, AnsweringModel, Instance, answer_report, content_digest, stamp
from rlvo.synthetic.cohort import has_synthetic
from rlvo.workflows.answers import Question

ROLES: tuple[Role, ...] = ("cta", "ncct", "vessels")
"""The first that is DICOM says whom the report is of."""
REFERRED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
OWN_NAME = re.compile(r".*-[0-9a-f]{16}\.dcm")


@dataclass(frozen=True)
class WrittenReports:
    """What became of the answers' structured reports."""

    files: tuple[Path, ...]
    """By patient, those that were there already included."""
    unchanged: int
    """How many were there already."""
    earlier: int
    """How many others the folder holds, of earlier answers."""
    unfiled: int
    """How many are of a study of their own, because no DICOM header names theirs."""
    findings: tuple[Finding, ...]
    """Patients who were answered and have no report."""

    def __str__(self) -> str:
        more = {
            "were there already": self.unchanged,
            "of a new study, because no DICOM header names theirs": self.unfiled,
        }
        said = [
            f"{len(self.files)} structured report(s)",
            *(f"{count} {what}" for what, count in more.items() if count),
        ]
        return "; ".join([*said, *([f"{self.earlier} other(s) of earlier answers left"] if self.earlier else [])])


def make_report_folder(folder: Path) -> None:
    """Make the folder of the reports. Raises RlvoError if it cannot be made, or holds anything but such reports."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        foreign = next((entry.name for entry in folder.iterdir() if not OWN_NAME.fullmatch(entry.name)), None)
    except OSError as error:
        raise RlvoError(f"cannot be written ({error.strerror})", where=folder, fix="Name another folder") from None
    if foreign is not None:
        what = f"the folder holds something other than structured reports of rlvo ({foreign})"
        raise RlvoError(what, where=folder, fix="Name a folder that does not exist yet")


def write_structured_reports(question: Question, answers: pd.DataFrame, folder: Path) -> WrittenReports:
    """Write a DICOM Basic Text SR for each patient with an answer; nothing is ever overwritten.

    Patient and study are those of the CTA's DICOM series, or of another volume's; without DICOM, the patient has the
    table's id and the SR is of a new study. A report whose content lies in the folder already is left as it is, with
    its UIDs, so that a command that is run again does not give an archive the same answer twice.

    Args:
        answers: what `question` was answered.
        folder: of `make_report_folder`.
    """
    admitted, table = question.model, question.patients
    name = Path(admitted.name).resolve().name if is_folder(admitted.name) else admitted.name
    model = AnsweringModel(name, file_sha256(admitted.folder / MANIFEST))
    when, files, findings, unchanged, unfiled = datetime.now(), list[Path](), list[Finding](), 0, 0
    paths = {role: table.typed[role].dropna() for role in ROLES if role in table.typed}
    for row in answers[answers["rlvo"].notna()].to_dict("records"):
        answer = {str(column): value for column, value in row.items()}
        patient = str(answer["patient_id"])
        try:
            scans = _find_scans({role: of[patient] for role, of in paths.items() if patient in of}, table.folder)
            identity = _identify(patient, [identity for _, identity in scans])
        except RlvoError as error:
            findings.append(Finding(patient, None, f"no SR was written: {error.what}", error.fix))
            continue
        if has_synthetic([patient]):
            answer["warnings"] = "; ".join(filter(None, ("the patient is SYNTHETIC", answer["warnings"])))
        report = answer_report(answer, model, identity, _images(scans))
        readable = re.sub(r"[^\w-]+", "_", patient)[:50]
        file = folder / f"{readable}-{content_digest(report)[:16]}.dcm"
        if file.exists():
            unchanged += 1
        else:
            atomic_write(file, stamp(report, when))
        unfiled += "StudyInstanceUID" not in identity
        files.append(file)
    earlier = sum(entry not in files for entry in folder.iterdir())
    return WrittenReports(tuple(files), unchanged, earlier, unfiled, tuple(findings))


Scan = tuple[Series, Mapping[str, str]]
"""A DICOM series, and whom it is of."""


def _find_scans(paths: Mapping[Role, str], folder: Path) -> list[Scan]:
    """Those of a patient's volumes that are DICOM."""
    found = [locate_source(folder / path, role).series for role, path in paths.items()]
    return [(series, read_identity(series.headers[0].path)) for series in found if series is not None]


def _identify(patient: str, identities: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """Whom the report is of, and its study.

    Raises RlvoError if the scans are of several patients, or only the table names the patient and DICOM allows no such
    id.
    """
    if len({(each.get("PatientID"), each.get("IssuerOfPatientID")) for each in identities}) > 1:
        fix = "Check that all volumes are of one patient"
        raise RlvoError("the DICOM headers of the volumes have different patient ids", fix=fix)
    identity = identities[0] if identities else {}
    if "PatientID" in identity:
        return identity
    if len(patient) > LONGEST or "\\" in patient:
        fix = "Give the patient a shorter id, without backslashes"
        raise RlvoError(f"DICOM allows {LONGEST} characters in an id, and no backslash", fix=fix)
    return {**identity, "PatientID": patient}


def _images(scans: Sequence[Scan]) -> list[Instance]:
    """The files of the scans; those that DICOM cannot refer to are left out."""
    images = [
        Instance(identity["StudyInstanceUID"], series.uid, str(elements.SOPClassUID), str(elements.SOPInstanceUID))
        for series, identity in scans
        for elements in (header.elements for header in series.headers)
        if "StudyInstanceUID" in identity and all(elements.get(keyword) for keyword in REFERRED)
    ]
    return list(dict.fromkeys(images))
