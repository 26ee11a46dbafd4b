"""The time to write a synthetic cohort with one worker and with all cores."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.measure import seconds, show
from rlvo.synthetic.cohort import write_synthetic_cohort

PATIENTS = 256


def benchmark_synthetic(*, short: bool = False) -> None:
    """Print the seconds per cohort and the speed-up."""
    patients = 48 if short else PATIENTS
    with tempfile.TemporaryDirectory() as folder:
        taken = {}
        for workers in sorted({1, os.cpu_count() or 1}):
            write = partial(write_synthetic_cohort, Path(folder) / str(workers), workers=workers)
            taken[f"{workers} worker(s)"] = seconds(partial(write, patients=patients, profile="demo", seed=0), 1)
    slowest = max(taken.values())
    rows = {name: (each, slowest / each) for name, each in taken.items()}
    show(f"synthetic cohort, {patients} patients", ("s", "speed-up"), rows, ratio="speed-up")
