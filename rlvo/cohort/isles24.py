"""ISLES'24 (Riedel et al., arXiv:2408.11142) as a cohort table: its phenotype files, scans and perfusion maps.

It does not record smoking, IV thrombolysis, side and site of the occlusion, or ASPECTS; those columns are empty. It
also lacks final stenosis and rescue treatment, and almost every patient was recanalised, so it serves for predictions
but cannot train rLVO.
"""

import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rlvo.cohort.hints import accepted_word
from rlvo.cohort.label import FAILED_ETICI, WITHOUT_LABEL
from rlvo.cohort.mapping import plain_name
from rlvo.cohort.reading import examine_table
from rlvo.cohort.tables import RawTable, read_table
from rlvo.cohort.variables import VARIABLES
from rlvo.errors import CohortError, Finding, MachineError, RlvoError
from rlvo.files import atomic_write, csv_text
from rlvo.progress import Advance

PHENOTYPE = {
    "age": "age", "sex": "sex", "hypertension": "hypertension", "hyperlipidemia": "dyslipidemia",
    "diabetes": "diabetes", "atrial fibrillation": "atrial_fibrillation", "wake-up": "unwitnessed_onset",
    "nihss at admission": "nihss", "tici postinterventional": "etici", "mtici postinterventional": "etici",
    "center": "center",
}  # fmt: skip
"""Its column names, and ours for each. Waking up with the stroke counts as an unwitnessed onset."""
COLUMNS = (
    *(name for name, variable in VARIABLES.items() if variable.role in ("id", "predictor", "score")),
    "ncct", "cta", "etici", "center",
)  # fmt: skip
RAW = ("raw_data", "rawdata")
"""Names of the folder of scans in its releases; sessions are `ses-01` or `ses-0001`, and so on."""

DELAYS_S = (4, 6, 10)
NORMAL_DELAY_S, HYPOPERFUSED_DELAY_S = 4, 6
CORE_FLOW = 0.30
LONGEST_DELAY_S = 100
"""No Tmax in seconds is longer: a map above it is in another unit."""


@dataclass(frozen=True)
class IslesReport:
    """What was read from an ISLES'24 folder."""

    patients: int
    missing: dict[str, int]
    """Our columns in which patients have no value, and how many have none."""
    failed_recanalisations: int
    """Number of patients with eTICI 0–2a."""
    findings: tuple[Finding, ...]
    """Cells and maps that could not be read, which are missing in the table, and files whose encoding was guessed."""
    notice: str = WITHOUT_LABEL


def isles24_cohort(folder: Path, out: Path, *, progress: Advance | None = None) -> IslesReport:
    """Write `out/cohort.csv` from an ISLES'24 folder: one row per patient; volume paths are relative to `out`.

    Perfusion volumes are computed from the Tmax and CBF maps, from raw ones rather than those resampled to the NCCT.

    Args:
        folder: contains `raw_data` (or `rawdata`), `phenotype` and `derivatives`, or `train` with these.

    Raises:
        RlvoError: it is not an ISLES'24 folder.
        MachineError: `out` cannot be written.
    """
    root = next((path for path in (folder, folder / "train") if any((path / name).is_dir() for name in RAW)), None)
    scans = [path for name in RAW for path in sorted((root / name).glob("sub-*"))] if root else []
    if root is None or not scans:
        fix = "It contains raw_data/sub-stroke0001, phenotype and derivatives"
        raise RlvoError("not an ISLES'24 folder", where=folder, fix=fix)
    rows, findings = [], list[Finding]()
    for done, scan in enumerate(scans, start=1):
        row, problems = _patient(scan, root, out.resolve())
        rows.append(row)
        findings += problems
        if progress is not None:
            progress(done, len(scans))
    table = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    typed, unreadable = examine_table(table)
    for finding in (each for each in unreadable if each.patient and each.value):
        table.loc[table["patient_id"] == finding.patient, str(finding.field)] = None
    try:
        atomic_write(out / "cohort.csv", csv_text(table))
    except OSError as error:
        raise MachineError(f"cannot be written ({error.strerror})", where=out) from None
    missing = {str(name): int(count) for name, count in typed.isna().sum().items() if count}
    failed = int(typed["etici"].isin(FAILED_ETICI).sum())
    return IslesReport(len(table), missing, failed, (*findings, *unreadable))


def perfusion_volumes(tmax: Path, cbf: Path | None) -> dict[str, float]:
    """Compute `tmax_gt4_ml`, `tmax_gt6_ml`, `tmax_gt10_ml` and, if there is a CBF map, `cbf_lt30_ml`, in mL to 0.1.

    A volume is the number of brain voxels beyond the threshold times the voxel volume. The brain is where either map is
    above zero, the largest piece with its holes filled. CBF is relative to its median over brain with Tmax below 4 s,
    which stands for normal tissue on both sides; below 30 % of it counts only where Tmax is above 6 s, because fluid
    and white matter have little flow everywhere. Commercial software also drops vessels and small islands: its volumes
    differ, and models trained on one kind do not carry over to the other untested.

    Args:
        tmax: NIfTI map of Tmax [s], [x, y, z].
        cbf: NIfTI map of cerebral blood flow, in any unit, on the same grid.

    Raises:
        RlvoError: a map cannot be read, is not 3-D, is empty or not in seconds, or the grids differ.
    """
    delay, voxel_ml = _read_map(tmax)
    flow = None
    if cbf is not None:
        flow, _ = _read_map(cbf)
        if flow.shape != delay.shape:
            raise RlvoError(f"the map has {flow.shape} voxels, but Tmax has {delay.shape}", where=cbf.name)
    signal = delay > 0 if flow is None else (delay > 0) | (flow > 0)
    if not signal.any():
        raise RlvoError("the map is empty", where=tmax.name)
    if delay.max() > LONGEST_DELAY_S:
        raise RlvoError(f"the map reaches {delay.max():g}, so it is not in seconds", where=tmax.name)
    brain = _brain(signal)

    def volume(mask: np.ndarray) -> float:
        return round(float(mask.sum()) * voxel_ml, 1)

    volumes = {f"tmax_gt{limit}_ml": volume((delay > limit) & brain) for limit in DELAYS_S}
    normal = brain & (delay < NORMAL_DELAY_S)
    if flow is not None and normal.any():
        low_flow = flow < CORE_FLOW * np.median(flow[normal])
        volumes["cbf_lt30_ml"] = volume((delay > HYPOPERFUSED_DELAY_S) & brain & low_flow)
    return volumes


def _patient(scan: Path, root: Path, out: Path) -> tuple[dict[str, object], list[Finding]]:
    """Return a patient's row, and what could not be read or was guessed."""
    patient = scan.name
    row: dict[str, object] = {"patient_id": patient}
    findings: list[Finding] = []
    written: dict[str, dict[str, object]] = {}
    for file in _files((root / "phenotype" / patient,), r"(demographic_baseline|outcome)\.(csv|xlsx)"):
        try:
            table = read_table(file)
            findings += [Finding(patient, file.name, note) for note in table.notes]
            for ours, theirs, cell in _phenotype(table, file):
                written.setdefault(ours, {})[f"{theirs} in {file.name}"] = cell
        except RlvoError as error:
            reason = error.findings[0] if isinstance(error, CohortError) else error
            findings.append(Finding(patient, file.name, f"cannot be read: {reason}"))
    for ours, cells in written.items():
        if (agreed := _agreed(ours, list(cells.values()))) is not None:
            row[ours] = agreed
        else:
            told = ", ".join(f"{cell} as {where}" for where, cell in cells.items())
            fix = "It is left empty; write the right one into cohort.csv"
            findings.append(Finding(patient, ours, f"values contradict each other: {told}", fix))
    folders = (scan, root / "derivatives" / patient)
    kinds = ("ncct", "cta", "tmax", "cbf")
    found = {kind: next(_files(folders, rf"{kind}\.nii(\.gz)?", session="1"), None) for kind in kinds}
    row |= {name: os.path.relpath(path.resolve(), out) for name in ("ncct", "cta") if (path := found[name])}
    if found["tmax"] is not None:
        try:
            row |= perfusion_volumes(found["tmax"], found["cbf"])
        except RlvoError as error:
            findings.append(Finding(patient, "tmax_gt6_ml", f"no perfusion volumes: {error}"))
    return row, findings


def _files(folders: Iterable[Path], ending: str, *, session: str = "[0-9]+") -> Iterator[Path]:
    """Yield the files of the folders' sessions whose names end with `_` and the pattern, in order."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            in_session = re.fullmatch(rf"ses-0*{session}", path.relative_to(folder).parts[0])
            if in_session and re.fullmatch(rf".*_{ending}", path.name) and path.is_file():
                yield path


def _phenotype(table: RawTable, file: Path) -> list[tuple[str, str, object]]:
    """Return a file's values: our column, its name there, and the cell."""
    cells = table.cells
    if len(cells) != 1:
        raise RlvoError(f"{len(cells)} rows instead of one", where=file.name)
    given = [(PHENOTYPE[str(name)], str(name), cell) for name, cell in cells.iloc[0].items() if name in PHENOTYPE]
    return [each for each in given if plain_name(each[2]) not in ("", "nan")]


def _agreed(column: str, cells: list[object]) -> object | None:
    """Return the one value of all cells, or None if they differ; 2b agrees with its parts 2b50, 2b67 and 2c."""
    values = {plain_name(cell).removesuffix(".0"): cell for cell in cells}
    if column == "etici":
        # Of several spellings, the one that needs no reading comes last and stays.
        spelt = sorted(values.items(), key=lambda each: each[0] in VARIABLES[column].levels)
        values = {accepted_word(text, VARIABLES[column]) or text: cell for text, cell in spelt}
        if values.keys() & {"2b50", "2b67", "2c"}:
            values.pop("2b", None)
    return next(iter(values.values())) if len(values) == 1 else None


def _read_map(path: Path) -> tuple[np.ndarray, float]:
    """Read a 3-D map, with 0 for values that are not finite, and its voxel volume [mL]."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nibabel.load(path)
        values = np.asarray(image.dataobj, dtype=np.float32).squeeze()
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise RlvoError(f"not a readable NIfTI file ({error})", where=path.name) from None
    if values.ndim != 3:
        raise RlvoError(f"the map has {values.ndim} dimensions, not 3", where=path.name)
    voxel_ml = float(abs(np.linalg.det(image.affine[:3, :3]))) / 1000
    return np.nan_to_num(values, nan=0, posinf=0, neginf=0), voxel_ml


def _brain(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_fill_holes, label

    pieces, _ = label(mask)
    return np.asarray(binary_fill_holes(pieces == np.bincount(pieces[mask]).argmax()))
