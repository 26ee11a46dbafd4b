"""Small real searches on a real Ray: what pruning saves if training is real, and what a search costs in addition."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd

from benchmarks.measure import show
from rlvo.config.loading import parse_study
from rlvo.config.workdir import Workdir
from rlvo.progress import no_progress
from rlvo.search.execute import run_search
from rlvo.study.folder import StudyFolder
from rlvo.study.inputs import open_study
from rlvo.study.state import StudyState
from rlvo.training.records import RECORD, CompletionRecord, read_record

PATIENTS = 192
GRID = {"shape": (16, 16, 16), "spacing": (8, 8, 8), "origin": (-60, -76, -50)}
STUDY: dict[str, Any] = {
    "grid": GRID,
    "cohort": {"predictors": ("age", "sex", "nihss", "occlusion_side")},
    "model": {"backbone": "resnet18", "modality": "NCCT", "resnet": {"widths": (8, 8, 16, 16), "stem_kernel": 3}},
    "training": {"epochs": 12, "batch_size": 8, "optimizer": "adamw"},
}
FINE = {"shape": (64, 64, 64), "spacing": (2, 2, 2), "origin": (-60, -76, -50)}
"""For the overhead: epochs of about a second, as short as those of real studies ever are."""
SPACE = {"enumerate": {"training.learning_rate": [1e-6, 1e-5, 1e-4, 1e-3, 3e-3], "model.fusion": ["none", "daft"]}}
"""Up to 1e-4 twelve epochs learn next to nothing, so the good region is known."""
PRUNING = {"pruning": "halving", "min_epochs": 3, "reduction_factor": 3, "first_folds": 2}
EPOCHS, SLOTS = 9, 2
"""Of the trials that the overhead is measured on (about 20 s each), and how many run at once."""


def benchmark_real_search() -> None:
    """Print what the pruned search finds and trains compared with the full grid, and the overhead of a study."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        work = Workdir.at(Path(folder))
        table = _cohort(work.path / "cohort", GRID)
        full, full_trials, *_ = run_study("full", table, work, space=SPACE)
        pruned, pruned_trials, *_ = run_study("pruned", table, work, space=SPACE, search=PRUNING)
        rows = {
            name: (_epochs(trials), _epochs(trials) / _epochs(full_trials), found, found / best)
            for name, result, trials in (("full grid", full, full_trials), ("both prunings", pruned, pruned_trials))
            if result.best and full.best and (found := result.best.objective) and (best := full.best.objective)
        }
        title = f"real search, {len(full.configurations)} configurations × 4 folds × 12 epochs, {PATIENTS} patients"
        show(title, ("epochs", "of the grid's", "best val/auc", "of the grid's"), rows)
        _overhead(_cohort(work.path / "fine", FINE), work)


def _overhead(table: Path, work: Workdir) -> None:
    """A study's wall time × slots against what its trials spend in training."""
    rates = {"enumerate": {"training.learning_rate": [1e-4, 1e-3]}}
    study = {
        "grid": FINE,
        "training": STUDY["training"] | {"epochs": EPOCHS},
        "space": rates,
        "search": {"concurrent_trials": SLOTS},
    }
    _, trials, ends, wall = run_study("overhead", table, work, **study)
    training = [trial.seconds for trial in trials]
    mean = sum(training) / len(training)
    later = len(ends) - SLOTS  # trials in processes that had one before
    start = (sum(ends[-SLOTS:]) - sum(ends[:SLOTS])) / later - mean
    beginning = wall - (mean + start) * len(ends) / SLOTS
    a_minute = 60 / (beginning * SLOTS / len(ends) + 60 + start)
    columns = ("s per trial", "s wall", "training / (wall × slots)", "s to start a trial", "the same, were trials 60 s")
    rows = {"": (mean, wall, sum(training) / (wall * SLOTS), start, a_minute)}
    show(f"overhead, {len(ends)} trials, {SLOTS} at once, processes reused", columns, rows)


def run_study(
    name: str, table: Path, work: Workdir, **sections: Any
) -> tuple[StudyState, list[CompletionRecord], list[float], float]:
    """Run a study: its result, its trials' records, when each was written, and how long the search took."""
    study = parse_study({"name": name} | STUDY | sections)
    inputs, folder = open_study(study, table, work, progress=no_progress), StudyFolder(work.study(name))
    started = time.time()
    result = run_search(study, inputs, folder)
    wall = time.time() - started
    trials = folder.trials()
    records = [record for trial in trials if (record := read_record(trial)) is not None]
    return result, records, sorted((trial / RECORD).stat().st_mtime for trial in trials), wall


def _epochs(trials: list[CompletionRecord]) -> int:
    return sum(trial.epochs for trial in trials)


def _cohort(folder: Path, grid: dict[str, Any]) -> Path:
    """Patients with noise for a head, and a block in it that is brighter where the label is 1: by 40 HU, SD 8 HU."""
    random = np.random.default_rng(0)
    label = np.arange(PATIENTS) % 2
    table = pd.DataFrame(
        {
            "patient_id": [f"planted-{i:03}" for i in range(PATIENTS)],
            "ncct": [f"{i}.nii.gz" for i in range(PATIENTS)],
            "cta": [f"{i}.nii.gz" for i in range(PATIENTS)],
            "vessels": [f"vessels-{i}.nii.gz" for i in range(PATIENTS)],
            "age": random.integers(40, 90, PATIENTS),
            "sex": random.choice(["F", "M"], PATIENTS),
            "nihss": random.integers(0, 30, PATIENTS),
            "occlusion_side": random.choice(["left", "right"], PATIENTS),
            "rlvo": label,
        }
    )
    affine = np.diag([*grid["spacing"], 1.0])
    affine[:3, 3] = grid["origin"]
    folder.mkdir()
    block = tuple(slice(side // 4, 3 * side // 4) for side in grid["shape"])
    vessels = np.zeros(grid["shape"], np.uint8)
    for i in range(PATIENTS):
        volume = random.normal(40, 5, grid["shape"])
        volume[block] += random.normal(40 * label[i], 8)
        vessels.flat[vessels.size // 2 + i] = 1  # a mask of one's own, as no two patients share a file
        for name, image in ((table["ncct"][i], volume.astype(np.float32)), (table["vessels"][i], vessels)):
            nibabel.save(nibabel.Nifti1Image(image, affine), folder / name)
    table.to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"
