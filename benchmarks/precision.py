"""Whether training in bf16 costs accuracy: the demo's network with DAFT on the synthetic cohort, against fp32.

`python -m benchmarks.precision WORK [--seeds N]` writes the demo's cohort, unless WORK holds it, and for each seed
trains every fold in both precisions, from the same weights and with the same batches. Seeds draw the hold-out, the
folds and the weights anew. Validation is in fp32 for both, as always. Without a GPU, training runs under the CPU's bf16
autocast, which rlvo itself uses on GPUs only. Run again, it continues.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from benchmarks.ablation import one_network
from benchmarks.measure import default_device, show
from rlvo.config.model import Configuration
from rlvo.config.workdir import Workdir
from rlvo.models.classifier import Classifier
from rlvo.report.console import show_progress
from rlvo.study.inputs import StudyInputs, open_study
from rlvo.synthetic.cohort import write_synthetic_cohort
from rlvo.training.fit import fit
from rlvo.training.member import Precision

AT_MOST = 0.01
"""How far the mean validation AUCs may be apart."""


def benchmark_precision(work: Path, seeds: int, *, patients: int = 480, epochs: int | None = None) -> None:
    """Print mean validation AUC over folds by seed and precision."""
    table = work / "cohort" / "cohort.csv"
    if not table.exists():
        write_synthetic_cohort(table.parent, patients=patients, profile="demo", seed=0)
    rows, apart = {}, list[float]()
    for seed in range(seeds):
        config = one_network(seed)
        inputs = open_study(config, table, Workdir.at(work), progress=show_progress)
        (point,) = config.grid_points()
        configuration, place = config.configuration(point), work / "precision" / str(seed)
        aucs = {
            precision: [
                _auc(configuration, inputs, place / precision / str(fold), seed, fold, precision, epochs)
                for fold in range(config.folds.folds)
            ]
            for precision in get_args(Precision)
        }
        fp32, bf16 = map(statistics.fmean, aucs.values())
        folds = [b - a for a, b in zip(*aucs.values(), strict=True)]
        apart += folds
        rows[f"seed {seed}"] = (fp32, bf16, bf16 - fp32, min(folds), max(folds))
    rows["mean"] = [statistics.fmean(column) for column in zip(*rows.values(), strict=True)]
    columns = ("fp32", "bf16", "difference", "lowest fold's", "highest fold's")
    show(f"validation AUC, mean over folds; seeds may differ by {AT_MOST}", columns, rows)
    if len(apart) > 1:
        error = statistics.stdev(apart) / len(apart) ** 0.5
        print(f"difference over {len(apart)} folds: {statistics.fmean(apart):+.4f}, standard error {error:.4f}")


def _auc(
    configuration: Configuration,
    inputs: StudyInputs,
    folder: Path,
    seed: int,
    fold: int,
    precision: Precision,
    epochs: int | None,
) -> float:
    """Validation AUC of the best epoch of one trial."""
    changed = {"mixed_precision": precision == "bfloat16"} | ({"epochs": epochs} if epochs else {})
    trained = configuration.model_copy(update={"training": configuration.training.model_copy(update=changed)})
    # The key of one configuration for both: the trial's random numbers depend on it.
    identity = inputs.identity(configuration.key, fold)
    autocast = on_cpu_in_bf16() if precision == "bfloat16" and default_device().type == "cpu" else nullcontext()
    with autocast:
        record = fit(trained, inputs.fold_data(fold), folder, identity, seed=seed)
    return record.metrics["val/auc"]


@contextmanager
def on_cpu_in_bf16() -> Iterator[None]:
    """Classifiers that are being trained compute under the CPU's bf16 autocast, as on a GPU."""
    forward = Classifier.forward

    def cast(self: Classifier, volume: Tensor, tabular: Tensor | None = None) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training):
            return forward(self, volume, tabular)

    Classifier.forward = cast
    try:
        yield
    finally:
        Classifier.forward = forward


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="bf16 against fp32: validation AUC on the synthetic cohort.")
    parser.add_argument("work", type=Path, help="work folder to make")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    benchmark_precision(options.work, options.seeds)


if __name__ == "__main__":
    main()
