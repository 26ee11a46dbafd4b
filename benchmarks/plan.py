"""Hours that `rlvo plan --measure` foretells, against what the searches take."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import show
from benchmarks.real_search import SLOTS, STUDY, run_study
from benchmarks.training import DEMO
from rlvo.config.grid import PRESETS
from rlvo.config.loading import parse_study
from rlvo.config.workdir import Workdir
from rlvo.synthetic.cohort import write_synthetic_cohort
from rlvo.workflows.search import plan

PATIENTS, GRID = 240, "focus"
DENSENET = {"backbone": "densenet121", "densenet": DEMO["densenet"], "modality": "BOTH", "fusion": "daft"}
HALVING = {"pruning": "halving", "min_epochs": 3, "reduction_factor": 2, "first_folds": 2}
STUDIES: dict[str, tuple[dict[str, Any], list[float], dict[str, Any]]] = {
    "demo's DenseNet": (DENSENET, [1e-4, 1e-3], {}),
    "the same, halving": (DENSENET, [1e-5, 1e-4, 1e-3, 3e-3], HALVING),
    "ResNet18": (STUDY["model"] | {"resnet": {"widths": (16, 32, 64, 128), "stem_kernel": 3}}, [1e-4, 1e-3], {}),
}
"""Model, learning rates, and how the search prunes."""
EPOCHS = 20


def benchmark_plan(*, short: bool = False) -> None:
    """Print the seconds foretold, those the search took, and their ratio."""
    names, patients, epochs = (list(STUDIES)[:1], 48, 2) if short else (STUDIES, PATIENTS, EPOCHS)
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Workdir.at(Path(folder))
        write_synthetic_cohort(
            cohort := work.path / "cohort", patients=patients, profile="demo", seed=0, grid=PRESETS[GRID]
        )
        table = cohort / "cohort.csv"
        for number, name in enumerate(names):
            model, rates, pruning = STUDIES[name]
            sections = {
                "grid": GRID,
                "model": model,
                "training": STUDY["training"] | {"epochs": epochs},
                "space": {"enumerate": {"training.learning_rate": rates}},
                "search": {"concurrent_trials": SLOTS, **pruning},
            }
            study = parse_study({"name": f"study{number}"} | STUDY | sections)
            _, verdict = plan(study, table, work, measure=True)
            *_, wall = run_study(study.name, table, work, **sections)
            foretold = 3600 * (verdict.hours or 0)
            rows[name] = (foretold, wall, foretold / wall)
    show(f"foretold against real, {SLOTS} trials at once", ("s foretold", "s taken", "ratio"), rows)
