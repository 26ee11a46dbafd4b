"""A synthetic cohort on disk in the layout of a real one, with the truth beside it."""

import json
import os
import re
import shutil
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd

from rlvo.cohort.variables import VOLUMES
from rlvo.config.grid import PRESETS, Grid
from rlvo.errors import MachineError, RlvoError
from rlvo.files import atomic_write, parse_json
from rlvo.imaging.cohort_preparation import worker_pool
from rlvo.progress import Advance
from rlvo.synthetic.ceilings import ceilings, known_grid_ceilings
from rlvo.synthetic.clinical import draw_clinic
from rlvo.synthetic.outcome import Profile, calibrate, draw_outcomes, get_profile
from rlvo.synthetic.phantom import occlusion_point, write_phantom
from rlvo.synthetic.vessels import Lesion

GENERATOR = "rlvo synth"
PREFIX = "synth-"
"""Of every synthetic patient's id."""
MIN_PATIENTS = 10
PATIENTS_PER_TASK = 16


@dataclass(frozen=True)
class SyntheticPatients:
    """Drawn patients: the cohort table without volumes, the lesions behind the images, and the true logits."""

    table: pd.DataFrame
    lesions: tuple[Lesion, ...]
    logits: pd.DataFrame


def draw_patients(patients: int, profile: Profile, seed: int) -> SyntheticPatients:
    """Draw clinical variables, latents, outcomes and the optional columns.

    The columns of `logits` are `patient_id`, `logit` and `clinical_logit`.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    model = calibrate(profile)
    clinic = draw_clinic(patients, rng)
    z_cta, z_ncct = rng.standard_normal((2, patients))
    logit = model.logit(clinic, z_cta, z_ncct)
    outcomes = draw_outcomes(model, logit, z_cta, rng)
    ids = pd.Series([f"{PREFIX}{number:05d}" for number in range(1, patients + 1)], name="patient_id")
    days = pd.to_timedelta(rng.integers(0, 7 * 365, patients), unit="D")
    table = pd.concat([ids, clinic, outcomes], axis=1).assign(
        center=rng.choice(["A", "B", "C"], patients),
        admission_date=(pd.Timestamp("2017-01-01") + days).strftime("%Y-%m-%d"),
    )
    lesions = map(Lesion, clinic["occlusion_side"], clinic["occlusion_site"], z_cta.tolist(), z_ncct.tolist())
    logits = pd.DataFrame({"patient_id": ids, "logit": logit, "clinical_logit": model.clinical_logit(clinic)})
    return SyntheticPatients(table, tuple(lesions), logits)


def write_synthetic_cohort(
    out: Path,
    *,
    patients: int,
    profile: str,
    seed: int,
    grid: Grid = PRESETS["focus"],
    volumes: bool = True,
    workers: int | None = None,
    progress: Advance = lambda done, total: None,
) -> None:
    """Write `cohort.csv`, `truth.json`, `true_logits.csv` and, if `volumes` is set, `volumes/` into `out`.

    The same arguments give the same bytes, whatever the number of `workers` (None: one per core). An earlier synthetic
    cohort in `out` is replaced. The table is written last: if it is there, the cohort is complete. `progress` counts
    patients.

    Raises:
        RlvoError: there are too few patients, the profile is unknown, or `out` holds something else.
        MachineError: the disk cannot be written, or a worker process died.
    """
    chosen = get_profile(profile)
    if patients < MIN_PATIENTS:
        raise RlvoError(f"{patients} patients are too few", where="--patients", fix=f"Ask for {MIN_PATIENTS} or more")
    _check_replaceable(out)
    drawn = draw_patients(patients, chosen, seed)
    truth = {
        "generator": GENERATOR,
        "profile": profile,
        "seed": seed,
        "patients": patients,
        "statement": f"Synthetic patients and images; nothing here comes from a real patient. {chosen.note}",
        "ceilings": ceilings(chosen),
        "grid_ceilings": known_grid_ceilings(chosen, grid) if volumes else {},
        "grid": grid.model_dump(mode="json") if volumes else None,
    }
    try:
        _clear(out)
        atomic_write(out / "truth.json", json.dumps(truth, indent=2) + "\n")
        atomic_write(out / "true_logits.csv", drawn.logits.to_csv(index=False))
        table = drawn.table
        if volumes:
            folders = [f"volumes/{patient}" for patient in table["patient_id"]]
            table = table.assign(**{name: [f"{folder}/{name}.nii.gz" for folder in folders] for name in VOLUMES})
            seeds = _volume_seeds(patients, seed)
            workers = min(workers or os.cpu_count() or 1, ceil(patients / PATIENTS_PER_TASK))
            with worker_pool(workers) if workers > 1 else nullcontext() as pool:
                run = partial(pool.map, chunksize=PATIENTS_PER_TASK) if pool else map
                write = partial(write_phantom, grid=grid, full_images=chosen.full_images)
                for done, _ in enumerate(run(write, map(out.joinpath, folders), drawn.lesions, seeds), start=1):
                    progress(done, patients)
        else:
            progress(patients, patients)
        atomic_write(out / "cohort.csv", table.to_csv(index=False))
    except OSError as error:
        fix = "Free some space or choose another folder"
        raise MachineError(f"cannot write here: {error.strerror or error}", where=out, fix=fix) from error
    except BrokenProcessPool as error:
        fix = "If memory ran out, free some; then run the command again"
        raise MachineError("a worker process died while drawing volumes", where=out, fix=fix) from error


def has_synthetic(ids: Iterable[str]) -> bool:
    """Whether any of the patients was drawn here, by their ids."""
    return any(re.fullmatch(rf"{PREFIX}\d{{5,}}", patient) for patient in ids)


def occlusion_places(cohort: Path) -> dict[str, np.ndarray]:
    """Where contrast ends in each patient of a synthetic cohort with volumes: [3] RAS mm, by patient id.

    Nothing in the cohort says so; it is drawn again, as the volumes were.

    Raises:
        RlvoError: the folder holds no synthetic cohort with volumes.
    """
    path = cohort / "truth.json"
    truth = parse_json(path.read_text()) if _is_synthetic(path) else {}
    if truth.get("grid") is None:
        raise RlvoError("this is no synthetic cohort with volumes", where=cohort, fix="Name the folder of one")
    patients, seed, profile = truth["patients"], truth["seed"], get_profile(truth["profile"])
    drawn, grid = draw_patients(patients, profile, seed), Grid.model_validate(truth["grid"])
    seeds = zip(drawn.table["patient_id"], drawn.lesions, _volume_seeds(patients, seed), strict=True)
    return {
        patient: occlusion_point(lesion, grid, np.random.default_rng(own), full_images=profile.full_images)
        for patient, lesion, own in seeds
    }


def _volume_seeds(patients: int, seed: int) -> list[np.random.SeedSequence]:
    """One per patient, so that the number of workers does not matter."""
    return np.random.SeedSequence(seed).spawn(patients)


def _check_replaceable(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise RlvoError("this is not a folder", where=out, fix="Choose another folder")
    if out.exists() and any(out.iterdir()) and not _is_synthetic(out / "truth.json"):
        what = "the folder holds something other than a synthetic cohort"
        raise RlvoError(what, where=out, fix="Choose an empty or new folder")


def _is_synthetic(truth: Path) -> bool:
    try:
        return bool(parse_json(truth.read_text())["generator"] == GENERATOR)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _clear(out: Path) -> None:
    """Remove an earlier cohort, its table first, and nothing else."""
    (out / "cohort.csv").unlink(missing_ok=True)
    for folder in out.glob(f"volumes/{PREFIX}*"):
        shutil.rmtree(folder)
