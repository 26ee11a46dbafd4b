"""`make bench`: each line compares two ways within this run, so that its ratio means the same on any machine."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from rlvo.config.grid import PRESETS
from rlvo.config.model import ModelConfig
from rlvo.imaging.prepare import prepare
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.models.classifier import build_classifier
from rlvo.synthetic.cohort import write_synthetic_cohort

PATIENTS = 64
GRID = PRESETS["focus"]
TARGET = Target(grid=GRID)
NARROW = {"init_features": 8, "growth_rate": 8, "block_config": (3, 3), "stem_kernel": 3}


def seconds(work: Callable[[], object], repeat: int = 3) -> float:
    """The quickest of `repeat` runs."""
    taken = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def synthetic(folder: Path) -> tuple[float, float]:
    """Writing the cohort with one worker and with all cores."""

    def write(name: str, workers: int | None) -> Callable[[], None]:
        return lambda: write_synthetic_cohort(
            folder / name, patients=4 * PATIENTS, profile="demo", seed=0, workers=workers
        )

    return seconds(write("one", 1), 1), seconds(write("all", None), 1)


def reading(folder: Path) -> tuple[float, float]:
    """One pass over the patients: decoding NIfTI each time, and memory maps of the store."""
    write_synthetic_cohort(folder / "cohort", patients=PATIENTS, profile="demo", seed=0)
    store, files = VolumeStore(folder / "store"), []
    for patient in sorted((folder / "cohort" / "volumes").iterdir()):
        files.append({name: patient / f"{name}.nii.gz" for name in ("ncct", "cta", "vessels")})
    addresses = [store.address(TARGET, of_patient) for of_patient in files]
    for address, of_patient in zip(addresses, files, strict=True):
        store.put(address, prepare(TARGET, **of_patient))

    def decode() -> None:
        for of_patient in files:
            for path in of_patient.values():
                np.asarray(nib.load(path).dataobj, dtype=np.float32).sum()

    def map_memory() -> None:
        for address in addresses:
            for volume in store.open(address).values():
                volume.astype(np.float32).sum()

    return seconds(decode), seconds(map_memory)


def fusion(_: Path) -> tuple[float, float]:
    """A training step of the demo's network without the table, and with DAFT."""
    torch.manual_seed(0)
    volume, table, label = torch.randn(8, 2, *GRID.shape), torch.rand(8, 21), torch.randint(2, (8,)).float()

    def step(name: str) -> Callable[[], None]:
        config = ModelConfig.model_validate({"backbone": "densenet121", "fusion": name, "densenet": NARROW})
        classifier = build_classifier(config, table.shape[1])

        def run() -> None:
            torch.nn.functional.binary_cross_entropy_with_logits(classifier(volume, table), label).backward()

        return run

    return seconds(step("none"), 20), seconds(step("daft"), 20)


def main() -> None:
    """Run every benchmark and print a table."""
    table = Table("what", "before, s", "after, s", "before/after", title=f"{os.cpu_count()} cores")
    rows = {
        f"synthetic cohort, {4 * PATIENTS} patients: 1 worker → all cores": synthetic,
        f"reading {PATIENTS} patients: NIfTI → store": reading,
        "training step, batch 8: without → with DAFT": fusion,
    }
    for what, compare in rows.items():
        with tempfile.TemporaryDirectory() as folder:
            before, after = compare(Path(folder))
        table.add_row(what, f"{before:.3f}", f"{after:.3f}", f"{before / after:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
