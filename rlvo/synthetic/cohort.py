"""A synthetic cohort on disk, laid out like a real one, with the truth beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rlvo.config.grid import PRESETS, Grid
from rlvo.errors import MachineError, RlvoError
from rlvo.files import atomic_write
from rlvo.synthetic.ceilings import ceilings
from rlvo.synthetic.clinical import draw_clinic
from rlvo.synthetic.outcome import calibrate, draw_outcomes
from rlvo.synthetic.profiles import Profile, get_profile
from rlvo.synthetic.vessels import Lesion
from rlvo.synthetic.volumes import MODALITIES, volume_path, write_volumes

GENERATOR = "rlvo synth"
MIN_PATIENTS = 10


@dataclass(frozen=True)
class SyntheticPatients:
    """Drawn patients: the cohort table without volumes, the lesions behind the images, and the true logits."""

    table: pd.DataFrame
    lesions: tuple[Lesion, ...]
    logits: pd.DataFrame


def draw_patients(patients: int, profile: Profile, seed: int) -> SyntheticPatients:
    """Draw clinic, latents, outcomes and the optional columns. `logits` has patient_id, logit, clinical_logit."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    model = calibrate(profile)
    clinic = draw_clinic(patients, rng)
    z_cta, z_ncct = rng.standard_normal((2, patients))
    logit = model.logit(clinic, z_cta, z_ncct)
    outcomes = draw_outcomes(model, logit, z_cta, rng)
    ids = pd.Series([f"synth-{number:05d}" for number in range(1, patients + 1)], name="patient_id")
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
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `cohort.csv`, `truth.json`, `true_logits.csv` and, unless `volumes` is off, `volumes/` into `out`.

    The same arguments give the same bytes, whatever the number of `workers` (None: all cores). An earlier synthetic
    cohort in `out` is replaced. The table is written last: where it is, the cohort is whole. `progress` is called with
    patients done and in all.

    Raises:
        RlvoError: too few patients, an unknown profile, or `out` holds something else.
        MachineError: the disk cannot be written.
    """
    chosen = get_profile(profile)
    if patients < MIN_PATIENTS:
        raise RlvoError(f"{patients} patients are too few", where="--patients", fix=f"Ask for {MIN_PATIENTS} or more.")
    _check_replaceable(out)
    drawn = draw_patients(patients, chosen, seed)
    truth = {
        "generator": GENERATOR,
        "profile": profile,
        "seed": seed,
        "patients": patients,
        "statement": f"Synthetic patients and images; nothing here comes from a real patient. {chosen.note}",
        "ceilings": ceilings(chosen),
        "grid": grid.model_dump(mode="json") if volumes else None,
    }
    try:
        _clear(out)
        atomic_write(out / "truth.json", json.dumps(truth, indent=2) + "\n")
        atomic_write(out / "true_logits.csv", drawn.logits.to_csv(index=False))
        table = drawn.table
        if volumes:
            lesions = dict(zip(table["patient_id"], drawn.lesions, strict=True))
            write_volumes(
                out, lesions, grid, seed=seed, full_images=chosen.full_images, workers=workers, progress=progress
            )
            table = table.assign(**{name: [volume_path(patient, name) for patient in lesions] for name in MODALITIES})
        elif progress is not None:
            progress(patients, patients)
        atomic_write(out / "cohort.csv", table.to_csv(index=False))
    except OSError as error:
        raise MachineError(
            f"cannot write: {error.strerror or error}", where=out, fix="Free space or choose another OUT."
        ) from error


def _check_replaceable(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise RlvoError("is not a folder", where=out, fix="Choose another OUT.")
    if out.exists() and any(out.iterdir()) and not _is_synthetic(out / "truth.json"):
        raise RlvoError(
            "holds something other than a synthetic cohort", where=out, fix="Choose an empty or new folder."
        )


def _is_synthetic(truth: Path) -> bool:
    try:
        content = json.loads(truth.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("generator") == GENERATOR


def _clear(out: Path) -> None:
    """Remove an earlier cohort, its table first, and nothing that is not its own."""
    (out / "cohort.csv").unlink(missing_ok=True)
    for folder in out.glob("volumes/synth-*"):
        shutil.rmtree(folder)
