"""ISLES'24 (Riedel et al., arXiv:2408.11142) as a cohort table: its phenotype files, scans and perfusion maps.

It tells neither smoking, IV thrombolysis, side and site of the occlusion nor ASPECTS; those columns are empty. As it
also lacks final stenosis and rescue treatment, and practically every patient was recanalised, it can be predicted for,
and cannot train rLVO.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rlvo.cohort.ctp_maps import perfusion_volumes
from rlvo.cohort.label import FAILED_ETICI, WITHOUT_LABEL
from rlvo.cohort.mapping import plain_name
from rlvo.cohort.reading import examine_table
from rlvo.cohort.tables import read_table
from rlvo.cohort.variables import VARIABLES
from rlvo.errors import CohortError, Finding, MachineError, RlvoError
from rlvo.files import atomic_write

PHENOTYPE = {
    "age": "age", "sex": "sex", "hypertension": "hypertension", "hyperlipidemia": "dyslipidemia",
    "diabetes": "diabetes", "atrial fibrillation": "atrial_fibrillation", "wake-up": "unwitnessed_onset",
    "nihss at admission": "nihss", "tici postinterventional": "etici", "mtici postinterventional": "etici",
    "center": "center",
}  # fmt: skip
"""Its column to ours. Waking up with the stroke stands for an unwitnessed onset."""
COLUMNS = (
    *(name for name, variable in VARIABLES.items() if variable.role in ("id", "predictor", "score")),
    "ncct", "cta", "etici", "center",
)  # fmt: skip
RAW = ("raw_data", "rawdata")
"""Names of the folder of scans in its releases; sessions are `ses-01` or `ses-0001`, and so on."""


@dataclass(frozen=True)
class IslesReport:
    """What became of an ISLES'24 folder."""

    patients: int
    missing: dict[str, int]
    """Columns of ours that some patients have no value in, and how many have none."""
    failed_recanalisations: int
    """Patients with eTICI 0–2a."""
    findings: tuple[Finding, ...]
    """Cells and maps that could not be read; they are missing in the table."""
    notice: str = WITHOUT_LABEL


def isles24_cohort(folder: Path, out: Path, *, progress: Callable[[int, int], None] | None = None) -> IslesReport:
    """Write `out/cohort.csv` from an ISLES'24 folder (`read_isles24`); volumes are relative to `out`.

    Raises:
        RlvoError: no ISLES'24 folder.
        MachineError: `out` cannot be written.
    """
    table, report = read_isles24(folder, progress=progress)
    for name in ("ncct", "cta"):
        table[name] = [None if pd.isna(path) else os.path.relpath(path, out.resolve()) for path in table[name]]
    try:
        atomic_write(out / "cohort.csv", table.to_csv(index=False))
    except OSError as error:
        raise MachineError(f"cannot be written ({error.strerror})", where=out) from None
    return report


def read_isles24(
    folder: Path, *, progress: Callable[[int, int], None] | None = None
) -> tuple[pd.DataFrame, IslesReport]:
    """The cohort table of an ISLES'24 folder, a row a patient, with absolute paths of volumes.

    Perfusion volumes are computed from the Tmax and CBF maps (`rlvo.cohort.ctp_maps`), raw ones before those that were
    resampled to the NCCT.

    Args:
        folder: holds `raw_data` (or `rawdata`), `phenotype` and `derivatives`, or `train` with them.
        progress: called with patients done and in all.

    Raises:
        RlvoError: there are no such folders.
    """
    root = next((path for path in (folder, folder / "train") if any((path / name).is_dir() for name in RAW)), None)
    scans = [path for name in RAW for path in sorted((root / name).glob("sub-*"))] if root else []
    if root is None or not scans:
        raise RlvoError(
            "not an ISLES'24 folder",
            where=folder,
            fix="It holds raw_data/sub-stroke0001, phenotype, derivatives",
        )
    rows, findings = [], list[Finding]()
    for done, scan in enumerate(scans, start=1):
        row, problems = _patient(scan, root)
        rows.append(row)
        findings += problems
        if progress is not None:
            progress(done, len(scans))
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    typed, unreadable = examine_table(table)
    for finding in (each for each in unreadable if each.patient and each.value):
        table.loc[table["patient_id"] == finding.patient, str(finding.field)] = None
    missing = {str(name): int(count) for name, count in typed.isna().sum().items() if count}
    failed = int(typed["etici"].isin(FAILED_ETICI).sum())
    return table, IslesReport(len(table), missing, failed, (*findings, *unreadable))


def _patient(scan: Path, root: Path) -> tuple[dict[str, object], list[Finding]]:
    """The row of a patient, and what could not be read."""
    patient = scan.name
    row: dict[str, object] = {"patient_id": patient}
    findings: list[Finding] = []
    for file in _files((root / "phenotype" / patient,), r"(demographic_baseline|outcome)\.(csv|xlsx)"):
        try:
            row |= _phenotype(file)
        except RlvoError as error:
            told = error.findings[0] if isinstance(error, CohortError) else error
            findings.append(Finding(patient, file.name, f"cannot be read: {told}"))
    folders = (scan, root / "derivatives" / patient)
    found = {
        kind: next(_files(folders, rf"{kind}\.nii(\.gz)?", session=1), None) for kind in ("ncct", "cta", "tmax", "cbf")
    }
    row |= {kind: path.resolve() for kind, path in found.items() if path is not None and kind in ("ncct", "cta")}
    if found["tmax"] is not None:
        try:
            row |= perfusion_volumes(found["tmax"], found["cbf"])
        except RlvoError as error:
            findings.append(Finding(patient, "tmax_gt6_ml", f"no perfusion volumes: {error}"))
    return row, findings


def _files(folders: Iterable[Path], ending: str, *, session: int | None = None) -> Iterator[Path]:
    """Files below the sessions of `folders` whose name ends with `_` and the pattern, in order."""
    sessions = rf"ses-0*{session or '[0-9]+'}"
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            in_session = re.fullmatch(sessions, path.relative_to(folder).parts[0])
            if in_session and re.fullmatch(rf".*_{ending}", path.name) and path.is_file():
                yield path


def _phenotype(file: Path) -> dict[str, object]:
    cells = read_table(file).cells
    if len(cells) != 1:
        raise RlvoError(f"{len(cells)} rows where one patient has one", where=file.name)
    row = {PHENOTYPE[name]: cell for name, cell in cells.iloc[0].items() if name in PHENOTYPE}
    return {name: cell for name, cell in row.items() if plain_name(cell) not in ("", "nan")}
