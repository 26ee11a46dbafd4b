"""A folder of studies, one folder a patient, as a cohort table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from rlvo.cohort.tables import RawTable
from rlvo.errors import CohortError, Finding, RlvoError
from rlvo.imaging.dicom_headers import SUFFIXES
from rlvo.registry.patients import VOLUMES

FILES = (".nii", ".nii.gz", *SUFFIXES)


def read_patient_folders(folder: Path, clinical: RawTable | None = None) -> tuple[RawTable, list[str]]:
    """A row for every folder in `folder`; its name is the patient's id.

    Its volumes are the one file (NIfTI, multi-frame DICOM) or DICOM folder whose name begins with `ncct`, `cta` or
    `vessels`, in any case. Hidden folders and files beside the folders are not looked at.

    Args:
        clinical: the patients' other columns, by `patient_id`.

    Returns:
        The table, paths relative to `folder`, and what does not fit, in words.

    Raises:
        RlvoError: no patient's folder; a clinical table without ids, or with one twice.
        CohortError: folders in which several volumes may be meant.
    """
    places = sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    if not places:
        raise RlvoError("holds no patient's folder", where=folder, fix="Each patient needs a folder, named as the id")
    rows: dict[str, dict[str, str]] = {place.name: {} for place in places}
    findings = []
    for place in places:
        for role in VOLUMES:
            found = sorted(entry.name for entry in place.iterdir() if _may_be(role, entry))
            if len(found) > 1:
                what = f"several may be meant: {', '.join(found)}"
                findings.append(Finding(place.name, role, what, "Keep one, or rename the others"))
            if found:
                rows[place.name][role] = f"{place.name}/{found[0]}"
    if findings:
        raise CohortError(findings, where=folder)
    volumes = pd.DataFrame.from_dict(rows, orient="index", columns=list(VOLUMES), dtype=object)
    if clinical is None:
        return RawTable(volumes.reset_index(names="patient_id"), decimal_comma=False), []
    others = _by_patient(clinical.cells)
    notes = [f"no folder for patient {patient}: not asked about" for patient in others.index.difference(volumes.index)]
    notes += [f"no clinical row for patient {patient}" for patient in volumes.index.difference(others.index)]
    return RawTable(volumes.join(others).reset_index(names="patient_id"), clinical.decimal_comma), notes


def _may_be(role: str, entry: Path) -> bool:
    name = entry.name.lower()
    return name.startswith(role) and (entry.is_dir() or name.endswith(FILES))


def _by_patient(cells: pd.DataFrame) -> pd.DataFrame:
    if "patient_id" not in cells:
        raise RlvoError("the column is missing", where="patient_id", fix="Every clinical row needs the patient's id")
    others = cells.drop(columns=[name for name in VOLUMES if name in cells])
    others = others.assign(patient_id=others["patient_id"].map(lambda cell: str(cell).strip())).set_index("patient_id")
    if twice := sorted(others.index[others.index.duplicated()].unique()):
        raise RlvoError(f"more than one clinical row for {', '.join(twice)}", fix="Keep one row a patient")
    return others
