"""Searches of a planted problem (formulas in place of training): what pruning saves, and what it misses."""

from __future__ import annotations

import runpy
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import show

PLANTED = Path(__file__).parents[1] / "tests" / "search" / "planted.py"
PROBLEMS = 10
MEMORY = Path("/dev/shm")


def benchmark_search() -> None:
    """Print, over planted problems, epochs and the objective found, against the full grid's."""
    planted = runpy.run_path(str(PLANTED))
    full_epochs = len(planted["planted_study"]().grid_points()) * planted["FOLDS"] * planted["EPOCHS"]
    halving = {"pruning": "halving", "min_epochs": 10, "reduction_factor": 2}
    ways: dict[str, dict[str, Any]] = {
        "random, as many epochs": {"sampler": "random", "configurations": 12},
        "pruning by epoch": halving | {"first_folds": 4},
        "pruning by fold": halving | {"first_folds": 1, "min_epochs": 60},
        "both, from 1 fold": halving | {"first_folds": 1},
        "both, from 2 folds": halving | {"first_folds": 2},
        "both, from 2 folds, thirds": halving | {"first_folds": 2, "reduction_factor": 3},
    }
    rows = {}
    for name, search in ways.items():
        found, epochs = [], []
        for seed in range(PROBLEMS):
            best = max(planted["full_grid"](seed).values())
            with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
                trials = planted["PlantedTrials"](seed)
                result = planted["search"](planted["planted_study"](**search), trials, Path(folder))
            found.append(result.best.auc / best)
            epochs.append(trials.trained / full_epochs)
        within = sum(share >= 0.99 for share in found) / PROBLEMS
        rows[name] = (statistics.fmean(epochs), statistics.fmean(found), min(found), within)
    columns = ("epochs / grid", "best / grid's", "worst", "share within 1 %")
    show(f"planted search, {PROBLEMS} problems of 72 configurations × {planted['FOLDS']} folds", columns, rows)
