"""A study's wall time against what its trials train, whatever the length of an epoch, with one and with two workers."""

from __future__ import annotations

import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import show
from rlvo.config.loading import parse_study
from rlvo.config.workdir import Workdir
from rlvo.progress import no_progress
from rlvo.ray_session import ray_session
from rlvo.search.execute import run_search
from rlvo.study.folder import StudyFolder
from rlvo.study.inputs import open_study
from rlvo.synthetic.cohort import write_synthetic_cohort
from rlvo.training.records import CompletionRecord, read_record

PATIENTS = 240
WIDTHS = {"narrow": (4, 4, 8, 8), "middle": (24, 24, 48, 48), "wide": (96, 96, 192, 192)}
"""Of ResNet18: short, longer and long epochs."""
TRIAL_SECONDS = 60.0
RATES = {"enumerate": {"training.learning_rate": [1e-3]}}
"""With four folds, four trials."""


def benchmark_study(*, short: bool = False) -> None:
    """Print the overhead of studies with trials of a minute; `short` proves only that it runs.

    Ray's start comes once per search and is told apart. The overhead is everything else that is not a trial's epochs:
    the start of processes, imports, what lies between trials and epochs, checkpoints, predictions and records.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    networks, seconds = (("narrow",), 1.0) if short else (tuple(WIDTHS), TRIAL_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_synthetic_cohort(place / "cohort", patients=PATIENTS, profile="demo", seed=0)
        begun = time.perf_counter()
        with ray_session([place]):
            started = time.perf_counter() - begun
            rows = {name: _overhead(place, name, seconds) for name in networks}
    columns = ("s per epoch", "s per trial", "overhead, 1 worker", "2 workers", "wall, 2 / 1", "same results (1: yes)")
    show(f"a study of 4 trials; Ray's start, {started:.1f} s, is not in it", columns, rows)


def _overhead(place: Path, network: str, trial_seconds: float) -> list[float]:
    first, _ = _run(place, network, 1, epochs=2, name="pace")
    pace = math.fsum(trial.seconds for trial in first) / sum(trial.epochs for trial in first)
    epochs = max(1, round(trial_seconds / pace))
    runs = [_run(place, network, workers, epochs=epochs, name="study") for workers in (1, 2)]
    worked = [math.fsum(trial.seconds for trial in trials) for trials, _ in runs]
    overheads = [n * wall / work - 1 for n, (_, wall), work in zip((1, 2), runs, worked, strict=True)]
    files = [[(trial.identity, trial.files) for trial in trials] for trials, _ in runs]
    return [pace, worked[0] / len(files[0]), *overheads, runs[1][1] / runs[0][1], float(files[0] == files[1])]


def _run(place: Path, network: str, workers: int, *, epochs: int, name: str) -> tuple[list[CompletionRecord], float]:
    """The trials of a study that is trained by so many workers, and how long the search took."""
    (work := place / f"{network}-{workers}").mkdir(exist_ok=True)
    (place / "store").mkdir(exist_ok=True)
    if not (work / "store").exists():
        (work / "store").symlink_to(place / "store")
    content: dict[str, Any] = {
        "name": name,
        "grid": "focus",
        "cohort": {"predictors": ("age", "sex", "nihss", "occlusion_side")},
        "model": {"backbone": "resnet18", "modality": "NCCT", "resnet": {"widths": WIDTHS[network], "stem_kernel": 3}},
        "training": {"epochs": epochs, "batch_size": 8, "optimizer": "adamw"},
        "space": RATES,
        "search": {"concurrent_trials": workers},
    }
    config, at = parse_study(content), Workdir.at(work)
    inputs = open_study(config, place / "cohort" / "cohort.csv", at, progress=no_progress)
    folder, begun = StudyFolder(at.study(name)), time.perf_counter()
    run_search(config, inputs, folder)
    wall = time.perf_counter() - begun
    return [record for trial in folder.trials() if (record := read_record(trial)) is not None], wall
