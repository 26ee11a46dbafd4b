"""Whom a DICOM series is of, and in which study it lies: what the header of a scan (`dicom_headers`) never holds.

Read only to file a structured report with the scan; it goes nowhere else.
"""

import warnings
from pathlib import Path

import pydicom
from pydicom.multival import MultiValue

from rlvo.imaging.reading.dicom_headers import DICOM_FAULTS

IDENTITY = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex",
    "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
    "StudyDescription",
)  # fmt: skip
"""Of the modules Patient and General Study (PS3.3 C.7.1.1 and C.7.2.1): what finds patient and study in an archive."""


def read_identity(file: Path) -> dict[str, str]:
    """`IDENTITY` by keyword, as it stands in a file, in Unicode whatever its character set; what is empty is left out.

    A file whose elements cannot be read has none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=list(IDENTITY))
            found.decode()
            values = {keyword: _as_written(found.get(keyword)) for keyword in IDENTITY}
        except DICOM_FAULTS:
            return {}
    return {keyword: value for keyword, value in values.items() if value}


def _as_written(value: object) -> str:
    parts = value if isinstance(value, MultiValue) else ("" if value is None else value,)
    return "\\".join(str(part) for part in parts).strip(" \0")
