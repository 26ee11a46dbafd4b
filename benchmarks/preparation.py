"""Seconds per patient, from raw CTA and NCCT to the store at the paper's grid, by part."""

from __future__ import annotations

import cProfile
import os
import pstats
import tempfile
import time
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
from scipy.spatial.transform import Rotation

from benchmarks.measure import seconds, show
from rlvo.config.grid import ATLAS_FIRST_VOXEL, ATLAS_SHAPE, Grid
from rlvo.imaging.alignment.template import load_atlas
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.resampling import resample
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.imaging.volume import Volume
from rlvo.synthetic.rasterise import cross_sections, splat
from rlvo.synthetic.vessels import draw_tree

PATIENTS = 2
SCANNER = Grid(shape=(440, 520, 190), spacing=(0.5, 0.5, 1.0), origin=(-110, -150, -75))
NOISE_HU = 12.0
LUMEN_HU = 315.0
PARTS = {
    "hash": ("store", "address"),
    "read": ("source", "read_source"),
    "register CTA": ("registration", "register_cta"),
    "register NCCT": ("registration", "register_ncct"),
    "quality": ("quality", "assess"),
    "vessels": ("vessels", "find_vessels"),
    "resample": ("resampling", "resample_to_grid"),
    "write": ("store", "put"),
}
"""By name: module and function. `vessels` resamples too, which `resample` counts again."""


def write_raw_patient(folder: Path, seed: int) -> dict[str, Path | None]:
    """Write an atlas head with vessels, turned and shifted, as from a scanner: 0.5 × 0.5 × 1 mm, int16, noise."""
    rng = np.random.default_rng(seed)
    head = load_atlas().head
    atlas_grid = Grid(shape=ATLAS_SHAPE, spacing=(1, 1, 1), origin=ATLAS_FIRST_VOXEL)
    tree = draw_tree(0.25, rng)
    position, copies = cross_sections(tree.position, tree.tangent, tree.radius, 1.0)
    lumen = splat(atlas_grid, position, np.repeat(np.pi * tree.radius**2 * tree.step / copies, copies)[None])[0]
    files: dict[str, Path | None] = {"vessels": None}
    for role, contrast in (("ncct", 0.0), ("cta", LUMEN_HU)):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_rotvec(rng.normal(0, 0.12, 3)).as_matrix()
        pose[:3, 3] = rng.normal(0, 6, 3)
        scanned = Volume((head.array + contrast * lumen).astype(np.float32), head.affine)
        hu = resample(scanned, SCANNER.affine, SCANNER.shape, pose).array
        hu = hu + NOISE_HU * rng.standard_normal(hu.shape, dtype=np.float32)
        files[role] = folder / f"{seed}-{role}.nii.gz"
        image = nibabel.Nifti1Image(np.rint(np.maximum(hu, -1024)).astype(np.int16), SCANNER.affine)
        nibabel.save(image, files[role])
    return files


def benchmark_preparation(*, short: bool = False) -> None:
    """Print seconds per patient by part, and for whole cohorts with one and two workers; `short`: the parts only."""
    patients = 1 if short else PATIENTS
    with tempfile.TemporaryDirectory() as name:
        folder, target = Path(name), Target(grid="paper")
        rows = {str(seed): write_raw_patient(folder, seed) for seed in range(patients)}
        load_atlas()
        profile, start = cProfile.Profile(), time.perf_counter()
        profile.runcall(prepare_cohort, {"0": rows["0"]}, target, VolumeStore(folder / "profiled"), workers=1)
        whole = time.perf_counter() - start
        shares = {part: _within(profile, *function) for part, function in PARTS.items()}
        show(
            f"raw CTA + NCCT to the store at the paper's grid, one patient, {os.cpu_count()} threads",
            ("s", "share"),
            {"whole": (whole, 1.0), **{part: (taken, taken / whole) for part, taken in shares.items()}},
        )
        if short:
            return
        by_workers = {}
        for workers in (1, 2):
            prepare = partial(_prepare_all, rows, target, folder / str(workers), workers)
            by_workers[f"{workers} worker(s)"] = seconds(prepare, 1)
        slowest = max(by_workers.values())
        show(
            f"a cohort of {PATIENTS}, {os.cpu_count()} cores",
            ("s per patient", "patients per hour", "against the slowest"),
            {name: (taken / PATIENTS, 3600 * PATIENTS / taken, slowest / taken) for name, taken in by_workers.items()},
        )


def _prepare_all(rows: dict[str, dict[str, Path | None]], target: Target, store: Path, workers: int) -> None:
    result = prepare_cohort(rows, target, VolumeStore(store), workers=workers)
    if result.refused:
        raise next(iter(result.refused.values()))


def _within(profile: cProfile.Profile, module: str, function: str) -> float:
    """Return seconds spent in a function of `rlvo.imaging`."""
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    return sum(
        cumulative
        for (file, _, name), (_, _, _, cumulative, _) in stats.items()
        if (Path(file).stem, name) == (module, function) and "imaging" in Path(file).parts
    )
