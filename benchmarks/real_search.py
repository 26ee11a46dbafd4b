"""A small real search on a real Ray: what pruning saves if training is real. What a search costs: `study`."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import show
from rlvo.config.loading import parse_study
from rlvo.config.workdir import Workdir
from rlvo.progress import no_progress
from rlvo.search.execute import run_search
from rlvo.study.folder import StudyFolder
from rlvo.study.inputs import open_study
from rlvo.study.state import StudyState
from rlvo.synthetic.cohort import write_synthetic_cohort
from rlvo.training.records import RECORD, CompletionRecord, read_record

PATIENTS = 192
STUDY: dict[str, Any] = {
    "grid": "focus",
    "cohort": {"predictors": ("age", "sex", "nihss", "occlusion_side")},
    "model": {"backbone": "resnet18", "modality": "NCCT", "resnet": {"widths": (8, 8, 16, 16), "stem_kernel": 3}},
    "training": {"epochs": 12, "batch_size": 8, "optimizer": "adamw"},
}
SPACE = {"enumerate": {"training.learning_rate": [1e-6, 1e-5, 1e-4, 1e-3, 3e-3], "model.fusion": ["none", "daft"]}}
"""Up to 1e-4 twelve epochs learn next to nothing, so the good region is known."""
PRUNING = {"pruning": "halving", "min_epochs": 3, "reduction_factor": 3, "first_folds": 2}
SLOTS = 2
"""How many trials run at once."""


def benchmark_real_search() -> None:
    """Print what the pruned search finds and trains compared with the full grid."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        work = Workdir.at(Path(folder))
        write_synthetic_cohort(work.path / "cohort", patients=PATIENTS, profile="demo", seed=0)
        table = work.path / "cohort" / "cohort.csv"
        full, full_trials, *_ = run_study("full", table, work, space=SPACE)
        pruned, pruned_trials, *_ = run_study("pruned", table, work, space=SPACE, search=PRUNING)
        rows = {
            name: (_epochs(trials), _epochs(trials) / _epochs(full_trials), found, found / best)
            for name, result, trials in (("full grid", full, full_trials), ("both prunings", pruned, pruned_trials))
            if result.best and full.best and (found := result.best.objective) and (best := full.best.objective)
        }
        title = f"real search, {len(full.configurations)} configurations × 4 folds × 12 epochs, {PATIENTS} patients"
        show(title, ("epochs", "of the grid's", "best val/auc", "of the grid's"), rows)


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
