"""Biomarkers of a prepared cohort: each patient's scans are read again, in HU, and placed as the store says."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np

from rlvo.config.grid import Grid
from rlvo.errors import MachineError, RlvoError
from rlvo.imaging.alignment.registration import RegisteredScan
from rlvo.imaging.biomarker_regions import BOX
from rlvo.imaging.biomarkers import Biomarkers, measure
from rlvo.imaging.cohort_preparation import Files, PreparedCohort, worker_pool
from rlvo.imaging.reading.dicom_series import Role
from rlvo.imaging.reading.source import locate_source, read_source
from rlvo.imaging.resampling import resample_to_grid
from rlvo.imaging.store import VolumeStore
from rlvo.progress import Advance

FINE_MM = 0.75
"""Of scans with smaller voxels, a voxel of the box is the mean of 2×2×2 samples: a single one would be noisier."""
THICK_MM = 1.5
"""With larger voxels, a clot's density and length follow the truth hardly or not at all (docs/biomarkers.md)."""
ROLES: tuple[Role, ...] = ("ncct", "cta")

Draw = Callable[[str, Mapping[str, np.ndarray], Biomarkers], None]
"""Draws a patient, given the id, the scans on the box (HU) and what was measured."""


@dataclass(frozen=True)
class Asked:
    """Whose biomarkers are measured: files, the entry of the store, and side and site of the occlusion if known."""

    files: Files
    address: str
    side: str | None
    site: str | None


def measure_cohort(
    prepared: PreparedCohort,
    files: Mapping[str, Files],
    store: VolumeStore,
    *,
    sides: Mapping[str, str],
    sites: Mapping[str, str],
    workers: int | None = None,
    draw: Draw | None = None,
    progress: Advance | None = None,
) -> dict[str, Biomarkers]:
    """Measure the biomarkers of all prepared patients, in their order.

    Args:
        files: each patient's `ncct` and `cta`, as they were prepared.
        sides, sites: of the occlusions that the table gives.
        workers: processes; None: one per core. One runs in this process.
        draw: draws each patient in the process that measured; it is sent there.
        progress: called with (done, total) after each patient.

    Raises MachineError if a worker process died; a patient's own errors become doubts.
    """
    asked = {p: Asked(files[p], each.address, sides.get(p), sites.get(p)) for p, each in prepared.prepared.items()}
    workers = min(workers or os.cpu_count() or 1, len(asked))
    found: dict[str, Biomarkers] = {}

    def note(patient: str, measured: Biomarkers) -> None:
        found[patient] = measured
        if progress is not None:
            progress(len(found), len(asked))

    if workers <= 1:
        for patient, each in asked.items():
            note(patient, measure_patient(patient, each, store, draw))
        return found
    try:
        with worker_pool(workers) as pool:
            futures = {pool.submit(measure_patient, p, each, store, draw): p for p, each in asked.items()}
            for future in as_completed(futures):
                note(futures[future], future.result())
    except BrokenProcessPool:
        fix = "Run it again with fewer workers"
        raise MachineError("a process died while biomarkers were measured", where=store.path, fix=fix) from None
    return {patient: found[patient] for patient in asked}


def measure_patient(patient: str, asked: Asked, store: VolumeStore, draw: Draw | None = None) -> Biomarkers:
    """Measure one patient, without the masks, which are only drawn. What cannot be read is a doubt."""
    transforms, doubts = store.read(asked.address).transforms, []
    scans: dict[str, np.ndarray] = {}
    try:
        sources = {
            role: locate_source(path, role, patient=patient)
            for role in ROLES
            if role in transforms and (path := asked.files.get(role)) is not None
        }
        if len(sources) == len(ROLES) and sources["ncct"] == sources["cta"]:
            doubts.append("NCCT and CTA are the same scan: it was taken for the CTA")
            del sources["ncct"]
        for role, source in sources.items():
            scan = RegisteredScan(read_source(source), transforms[role])
            if (coarse := scan.scan.spacing.max()) > THICK_MM:
                doubts.append(f"{role.upper()}: voxels of {coarse:.1f} mm: calcium and clot are uncertain")
            scans[role] = on_box(scan)
    except RlvoError as error:
        doubts.append(f"a scan could not be read again: {error.what}")
    measured = measure(scans.get("ncct"), scans.get("cta"), side=asked.side, site=asked.site)
    measured = Biomarkers(measured.values, measured.side, (*doubts, *measured.doubts), measured.calcium, measured.clot)
    if draw is not None:
        draw(patient, scans, measured)
    return Biomarkers(measured.values, measured.side, measured.doubts)


def on_box(scan: RegisteredScan) -> np.ndarray:
    """A registered scan on the biomarkers' box, HU, not clipped, float32 [x, y, z]; air outside the scan."""
    if scan.scan.spacing.min() >= FINE_MM:
        return resample_to_grid(scan.scan, BOX, scan.transform)
    half = Grid(
        shape=tuple(2 * n for n in BOX.shape),
        spacing=tuple(step / 2 for step in BOX.spacing),
        origin=tuple(first - step / 4 for first, step in zip(BOX.origin, BOX.spacing, strict=True)),
    )
    nx, ny, nz = BOX.shape
    fine = resample_to_grid(scan.scan, half, scan.transform)
    return np.asarray(fine.reshape(nx, 2, ny, 2, nz, 2).mean(axis=(1, 3, 5)))
