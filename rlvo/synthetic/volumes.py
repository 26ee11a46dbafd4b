"""Patients' phantoms written as NIfTI, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from math import ceil
from multiprocessing import get_context
from pathlib import Path

import nibabel as nib
import numpy as np

from rlvo.config.grid import Grid
from rlvo.errors import MachineError
from rlvo.synthetic.phantom import make_phantom
from rlvo.synthetic.vessels import Lesion

MODALITIES = ("ncct", "cta", "vessels")
_BATCH = 16


def volume_path(patient: str, modality: str) -> str:
    """Where a patient's volume lies, relative to the table."""
    return f"volumes/{patient}/{modality}.nii.gz"


def write_volumes(
    out: Path,
    lesions: Mapping[str, Lesion],
    grid: Grid,
    *,
    seed: int,
    full_images: bool,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write every patient's volumes under `out`. Each patient has a seed of their own: workers don't matter.

    Raises:
        OSError: the disk cannot be written.
        MachineError: a worker process died.
    """
    write = partial(_write_patient, out, grid, full_images)
    seeds = np.random.SeedSequence(seed).spawn(len(lesions))
    workers = min(workers or os.cpu_count() or 1, ceil(len(lesions) / _BATCH))
    if workers == 1:
        _follow(map(write, lesions, lesions.values(), seeds), len(lesions), progress)
        return
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            finished = pool.map(write, lesions, lesions.values(), seeds, chunksize=_BATCH)
            _follow(finished, len(lesions), progress)
    except BrokenProcessPool as error:
        raise MachineError("a process that drew volumes died", where=out, fix="Out of memory? Run it again.") from error


def _follow(finished: Iterable[None], total: int, progress: Callable[[int, int], None] | None) -> None:
    for done, _ in enumerate(finished, start=1):
        if progress is not None:
            progress(done, total)


def _write_patient(
    out: Path, grid: Grid, full_images: bool, patient: str, lesion: Lesion, seed: np.random.SeedSequence
) -> None:
    phantom = make_phantom(lesion, grid, np.random.default_rng(seed), full_images=full_images)
    for modality in MODALITIES:
        image = nib.Nifti1Image(getattr(phantom, modality), grid.affine)
        image.set_sform(grid.affine, code="mni")
        image.set_qform(grid.affine, code="mni")
        image.header.set_xyzt_units("mm")
        path = out / volume_path(patient, modality)
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
