"""Small real searches, on a real Ray: what pruning saves where training is real, and what a search costs beside it."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd

from benchmarks.measure import show
from rlvo.config.loading import parse_study
from rlvo.config.workdir import Workdir
from rlvo.search.execute import run_search
from rlvo.search.results import SearchResult
from rlvo.search.study import open_study
from rlvo.training.records import CompletionRecord, read_record

PATIENTS = 96
GRID = {"shape": (16, 16, 16), "spacing": (8, 8, 8), "origin": (-60, -76, -50)}
STUDY: dict[str, Any] = {
    "grid": GRID,
    "cohort": {"predictors": ("age", "sex", "nihss", "occlusion_side")},
    "model": {"backbone": "resnet18", "modality": "NCCT", "resnet": {"widths": (4, 4, 8, 8), "stem_kernel": 3}},
    "training": {"epochs": 12, "batch_size": 4, "optimizer": "adamw"},
}
SPACE = {"enumerate": {"training.learning_rate": [1e-6, 1e-5, 1e-4, 3e-3, 1e-2], "model.fusion": ["none", "daft"]}}
"""Up to 1e-4 twelve epochs learn next to nothing, so the good region is known."""
PRUNING = {"pruning": "halving", "min_epochs": 2, "first_folds": 2}
SECONDS, SLOTS = 20, 2
"""Of the trials that the overhead is measured on, and how many run at once."""


def benchmark_real_search() -> None:
    """Print what the pruned search finds and trains against the full grid, and the overhead of a study."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        work = Workdir.at(Path(folder))
        table = _cohort(work.path / "cohort")
        full, full_trials, _ = _run("full", table, work, space=SPACE)
        pruned, pruned_trials, _ = _run("pruned", table, work, space=SPACE, search=PRUNING)
        rows = {
            name: (_epochs(trials), _epochs(trials) / _epochs(full_trials), result.best.auc, result.best.auc / best)
            for name, result, trials in (("full grid", full, full_trials), ("both prunings", pruned, pruned_trials))
            if result.best and full.best and result.best.auc and (best := full.best.auc)
        }
        title = f"real search, {len(full.configurations)} configurations × 4 folds × 12 epochs, {PATIENTS} patients"
        show(title, ("epochs", "of the grid's", "best val/auc", "of the grid's"), rows)
        epochs = max(round(SECONDS * _epochs(full_trials) / sum(trial.seconds for trial in full_trials)), 1)
        _overhead(table, work, epochs)


def _overhead(table: Path, work: Workdir, epochs: int) -> None:
    """A study's wall time × slots against what its trials spend in training."""
    rates = {"enumerate": {"training.learning_rate": [1e-4, 1e-3]}}
    study = {"space": rates, "search": {"concurrent_trials": SLOTS}, "training": STUDY["training"] | {"epochs": epochs}}
    started = time.time()
    _, trials, ends = _run("overhead", table, work, **study)
    wall, ends = time.time() - started, sorted(ends)
    training = [trial.seconds for trial in trials]
    mean = sum(training) / len(training)
    later = len(ends) - SLOTS  # trials in processes that had one before
    start = (sum(ends[-SLOTS:]) - sum(ends[:SLOTS])) / later - mean
    beginning = wall - (mean + start) * len(ends) / SLOTS
    a_minute = 60 / (beginning * SLOTS / len(ends) + 60 + start)
    columns = ("s a trial", "s wall", "training / (wall × slots)", "s to start a trial", "the same, were trials 60 s")
    rows = {"": (mean, wall, sum(training) / (wall * SLOTS), start, a_minute)}
    show(f"overhead, {len(ends)} trials, {SLOTS} at once, processes reused", columns, rows)


def _run(
    name: str, table: Path, work: Workdir, **sections: Any
) -> tuple[SearchResult, list[CompletionRecord], list[float]]:
    """Run a study: its result, its trials' records, and when each was written."""
    study = parse_study({"name": name} | STUDY | sections)
    inputs = open_study(study, table, work, progress=_no_progress)
    result = run_search(study, inputs, work.study(name))
    paths = list(work.study(name).rglob("record.json"))
    records = [record for path in paths if (record := read_record(path.parent)) is not None]
    return result, records, [path.stat().st_mtime for path in paths]


def _epochs(trials: list[CompletionRecord]) -> int:
    return sum(trial.epochs for trial in trials)


@contextlib.contextmanager
def _no_progress(description: str) -> Iterator[Callable[[int, int], None]]:
    yield lambda done, total: None


def _cohort(folder: Path) -> Path:
    """Patients with noise for a head, and a block in it that is brighter where the label is 1: by 20 HU, SD 8 HU."""
    random = np.random.default_rng(0)
    label = np.arange(PATIENTS) % 2
    table = pd.DataFrame(
        {
            "patient_id": [f"planted-{i:03}" for i in range(PATIENTS)],
            "ncct": [f"{i}.nii.gz" for i in range(PATIENTS)],
            "cta": [f"{i}.nii.gz" for i in range(PATIENTS)],
            "age": random.integers(40, 90, PATIENTS),
            "sex": random.choice(["F", "M"], PATIENTS),
            "nihss": random.integers(0, 30, PATIENTS),
            "occlusion_side": random.choice(["left", "right"], PATIENTS),
            "rlvo": label,
        }
    )
    affine = np.diag([*GRID["spacing"], 1.0])
    affine[:3, 3] = GRID["origin"]
    folder.mkdir()
    for i in range(PATIENTS):
        volume = random.normal(40, 5, GRID["shape"])
        volume[4:12, 4:12, 4:12] += random.normal(20 * label[i], 8)
        nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), affine), folder / table["ncct"][i])
    table.to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"
