"""The report on a study of the paper's shape: every model spec of `paper_grid.yaml`, and a backbone beside the paper's.

`python -m benchmarks.report WORK [--patients N] [--epochs N]` writes a synthetic cohort, trains narrow networks on a
small grid, builds the ensembles and Models B and C without CT perfusion, opens the hold-out once for all and writes
`WORK/report.html`, with saliency and importance of variables. Every tenth patient has no CT perfusion: Model C
trains on them. Run again, it continues. Its figures say nothing: three epochs are no training.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd

from rlvo.cohort.variables import CTP, PERFUSION_VOLUMES
from rlvo.config.grid import PRESETS
from rlvo.config.loading import load_study
from rlvo.config.study import StudyConfig
from rlvo.report.console import print_line, show_progress
from rlvo.synthetic.cohort import write_synthetic_cohort
from rlvo.workflows.api import Study

PAPER_GRID = Path(__file__).parents[1] / "tune_configs" / "paper_grid.yaml"
NARROW: dict[str, dict[str, Any]] = {
    "densenet": {"init_features": 8, "growth_rate": 8, "block_config": [2, 2], "stem_kernel": 3},
    "efficientnet": {"width": 0.25, "depth": 0.25},
    "resnet": {"widths": [4, 8, 8, 16], "blocks": [1, 1, 1, 1], "stem_kernel": 3},
    "daft": {"identity_init": True},
}
OTHER_BACKBONES = ["resnet18"]
"""Those of Table A1."""


def paper_shape(epochs: int) -> StudyConfig:
    """The paper's grid and another backbone, on small volumes and with narrow networks."""
    content = load_study(PAPER_GRID).model_dump()
    content |= {"name": "paper_shape", "grid": PRESETS["focus"].model_dump(), "resources": {"cpus": 1}}
    content["model"] |= NARROW
    content["training"] |= {"epochs": epochs, "batch_size": 8, "learning_rate": 6e-3}
    axes = content["space"]["enumerate"]
    axes["model.backbone"] = [*axes["model.backbone"], *OTHER_BACKBONES]
    return StudyConfig.model_validate(content)


def benchmark_report(work: Path, patients: int, epochs: int) -> None:
    """Make the study, and write and time its report."""
    table = work / "cohort" / "cohort.csv"
    if not table.exists():
        with show_progress("synthetic patients") as advance:
            write_synthetic_cohort(table.parent, patients=patients, profile="demo", seed=1, progress=advance)
        cells = pd.read_csv(table, dtype=str)
        cells.loc[::10, list(PERFUSION_VOLUMES)] = None
        cells.to_csv(table, index=False)
    study = Study(paper_shape(epochs), cohort=table, workdir=work)
    study.search()
    if not study.folder.declared.exists():
        study.ensemble()
        study.ablate(drop=CTP, evaluate=True)
    for explain in (True, False):
        started = time.monotonic()
        report = study.report(work / "report.html", explain=explain)
        print_line(f"{report.page}: {time.monotonic() - started:.0f} s, explain={explain}")
    names = [exhibit.name for section in report.sections for exhibit in section.exhibits]
    print_line(f"{report.page.stat().st_size / 1e6:.1f} MB; {len(names)} exhibits: {', '.join(names)}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="The report on a study of the paper's shape.")
    parser.add_argument("work", type=Path, help="work folder to make")
    parser.add_argument("--patients", type=int, default=120)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    benchmark_report(options.work, options.patients, options.epochs)


if __name__ == "__main__":
    main()
