"""A folder with one subfolder per patient, read as a cohort table."""

from pathlib import Path

import pandas as pd

from rlvo.cohort.tables import RawTable
from rlvo.cohort.variables import VOLUMES
from rlvo.errors import CohortError, Finding, RlvoError
from rlvo.imaging.reading.dicom_headers import DICOM_SUFFIXES

FILES = (".nii", ".nii.gz", *DICOM_SUFFIXES)


def read_patient_folders(folder: Path, clinical: RawTable | None = None) -> tuple[RawTable, list[str]]:
    """Read one row per subfolder of `folder`; the subfolder's name is the patient's id.

    A patient's volumes are the one file (NIfTI, multi-frame DICOM) or DICOM folder each whose name begins with `ncct`,
    `cta` or `vessels`, in upper or lower case. Hidden folders, and files beside the subfolders, are ignored.

    Args:
        clinical: the patients' other columns, by `patient_id`.

    Returns:
        The table, with paths relative to `folder`; and a line for each patient who has only a folder or only a row.

    Raises:
        RlvoError: if there are no subfolders, or the clinical table has no ids or has one twice.
        CohortError: if it is ambiguous in some subfolders which file or folder is meant.
    """
    places = sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    if not places:
        fix = "Put each patient's scans into a folder named after the patient's id"
        raise RlvoError("there are no patients' folders in this folder", where=folder, fix=fix)
    rows: dict[str, dict[str, str]] = {place.name: {} for place in places}
    findings = []
    for place in places:
        for role in VOLUMES:
            found = sorted(entry.name for entry in place.iterdir() if _is_volume(role, entry))
            if len(found) > 1:
                what = f"it is ambiguous which of these is meant: {', '.join(found)}"
                findings.append(Finding(place.name, role, what, "Keep one, or rename the others"))
            if found:
                rows[place.name][role] = f"{place.name}/{found[0]}"
    if findings:
        raise CohortError(findings, where=folder)
    volumes = pd.DataFrame.from_dict(rows, orient="index", columns=list(VOLUMES), dtype=object)
    if clinical is None:
        return RawTable(volumes.reset_index(names="patient_id"), decimal_comma=False), []
    others = _by_patient(clinical.cells)
    notes = [*clinical.notes]
    notes += [f"patient {patient} has no folder and is left out" for patient in others.index.difference(volumes.index)]
    notes += [f"patient {patient} has no clinical row" for patient in volumes.index.difference(others.index)]
    return RawTable(volumes.join(others).reset_index(names="patient_id"), clinical.decimal_comma), notes


def _is_volume(role: str, entry: Path) -> bool:
    name = entry.name.lower()
    return name.startswith(role) and (entry.is_dir() or name.endswith(FILES))


def _by_patient(cells: pd.DataFrame) -> pd.DataFrame:
    if "patient_id" not in cells:
        fix = "Every clinical row needs the patient's id"
        raise RlvoError("the column is missing in the clinical table", where="patient_id", fix=fix)
    others = cells.drop(columns=[name for name in VOLUMES if name in cells])
    others = others.assign(patient_id=others["patient_id"].map(lambda cell: str(cell).strip())).set_index("patient_id")
    if repeated := sorted(others.index[others.index.duplicated()].unique()):
        raise RlvoError(f"more than one clinical row for {', '.join(repeated)}", fix="Keep one row per patient")
    return others
