"""What leaving out the air around the head costs and saves: the same trials on the whole grid and on the head's box.

`python -m benchmarks.crop WORK` draws synthetic cohorts over the atlas's field of view at a
spacing that two cores can train, cuts the box of `grid: head` out of the prepared volumes, and trains the demo's
network for both scans on each: same patients, folds, seed and recipe, one thread. Run again, it continues.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.measure import show
from rlvo.config.grid import HEAD_BOX, Grid, crop, over_field_of_view
from rlvo.config.loading import load_study
from rlvo.config.shipped import shipped_studies
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.report.console import show_progress
from rlvo.study.inputs import open_study
from rlvo.synthetic.cohort import write_synthetic_cohort
from rlvo.training.dataset import FoldData, Patients
from rlvo.training.fit import fit

WHOLE = over_field_of_view((39, 46, 38))
"""About 5 mm."""
HEAD = crop(WHOLE, *HEAD_BOX)


def study_of(seed: int, epochs: int) -> StudyConfig:
    """The demo's network that sees both scans and no table, on the whole grid."""
    content = load_study(shipped_studies()["demo"]).model_dump() | {
        "name": f"crop-{epochs}",
        "seed": seed,
        "grid": WHOLE,
    }
    content["folds"] |= {"seed": seed}
    content["training"] |= {"epochs": epochs}
    content["space"]["enumerate"] = {"model.modality": ["BOTH"], "model.fusion": ["none"]}
    return StudyConfig.model_validate(content)


def cut_out(data: FoldData, part: Grid, folder: Path) -> FoldData:
    """The fold with the part of every volume, in files in `folder`."""
    first = np.rint((np.array(part.origin) - WHOLE.origin) / WHOLE.spacing).astype(int)
    box = tuple(slice(start, start + size) for start, size in zip(first, part.shape, strict=True))

    def of(patients: Patients) -> Patients:
        own = tuple(folder / whole.name for whole in patients.volumes)
        for whole, cut in zip(patients.volumes, own, strict=True):
            cut.mkdir(parents=True, exist_ok=True)
            for path in whole.glob("*.npy"):
                np.save(cut / path.name, np.load(path)[box])
        return replace(patients, volumes=own)

    return replace(data, training=of(data.training), validation=of(data.validation), brain_mask=data.brain_mask[box])


def benchmark_crop(work: Path, cohorts: int, patients: int, folds: int, epochs: int) -> None:
    """Train and compare, and print each pair, the mean difference of AUC with its standard error, and the time."""
    rows: dict[str, tuple[float, ...]] = {}
    for seed in range(cohorts):
        folder = work / f"cohort-{seed}"
        table = folder / "cohort.csv"
        if not table.exists():
            with show_progress("synthetic patients") as advance:
                write_synthetic_cohort(
                    folder, patients=patients, profile="demo", seed=seed, grid=WHOLE, workers=1, progress=advance
                )
        study = study_of(seed, epochs)
        inputs = open_study(study, table, Workdir.at(work / f"work-{seed}"), progress=show_progress, workers=1)
        configuration = study.configuration({"model.modality": "BOTH", "model.fusion": "none"})
        for fold in range(folds):
            whole = inputs.fold_data(fold)
            identity = inputs.identity(configuration.key, fold)
            found = []
            ways: dict[str, Callable[[], FoldData]] = {
                "whole": lambda whole=whole: whole,
                "head": lambda whole=whole, seed=seed: cut_out(whole, HEAD, work / f"cut-{seed}"),
            }
            for name, data in ways.items():
                trial = work / f"trials-{seed}" / f"{name}-{epochs}-{fold}"
                record = fit(configuration, data(), trial, identity, seed=seed, device="cpu", threads=1)
                found += [record.metrics["val/auc"], record.seconds]
            auc, seconds, head_auc, head_seconds = found
            rows[f"cohort {seed}, fold {fold}"] = (auc, head_auc, head_auc - auc, head_seconds / seconds)
    figures = np.array(list(rows.values()))
    rows["mean"] = tuple(figures.mean(axis=0))
    rows["standard error"] = tuple(figures.std(axis=0, ddof=1) / np.sqrt(len(figures)))
    voxels = np.prod(HEAD.shape) / np.prod(WHOLE.shape)
    shapes = " and ".join("×".join(map(str, grid.shape)) for grid in (WHOLE, HEAD))
    columns = ("AUC, whole", "AUC, head", "difference", "seconds, head / whole")
    show(f"grids of {shapes} voxels ({voxels:.2f} times as many), validation patients", columns, rows)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="What leaving out the air around the head costs and saves.")
    parser.add_argument("work", type=Path, help="work folder to make")
    parser.add_argument("--cohorts", type=int, default=3)
    parser.add_argument("--patients", type=int, default=480)
    parser.add_argument("--folds", type=int, default=2, help="of the four of each cohort")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    benchmark_crop(options.work, options.cohorts, options.patients, options.folds, options.epochs)


if __name__ == "__main__":
    main()
