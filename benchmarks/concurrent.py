"""Several trials at once, ours against as many plain loops: patients per second, and memory that each trial adds."""

# ruff: noqa: E402
from __future__ import annotations

from rlvo.training.imports import import_monai

import_monai()  # as a worker does, before anything else imports it; the plain loop's processes have it so too

import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from queue import Queue
from threading import Barrier
from typing import Any

import torch

from benchmarks.measure import context, show
from benchmarks.plain_loop import PlainLoop
from benchmarks.store import pss
from benchmarks.training import FOCUS, WHOLE, Ours, configure, plain_loop, random_fold
from rlvo.training.dataset import FoldData

NETWORK, BATCH = "demo's DenseNet", 8
WAYS, COUNTS = ("ours", "plain"), (1, 2, 4)
PATIENTS, FINE = 361, (98, 116, 94)
"""Whose volumes are held for the memory: as many as the paper's folds train on, at 2 mm. The plain loop takes 17 GB."""
LARGER = ("ResNet18", "EfficientNet-B0", "DenseNet169")
"""Networks of which two trials at once are timed too, with few patients on the grid WHOLE."""


def benchmark_concurrent(*, short: bool = False) -> None:
    """Print patients per second of several trials, one thread each, and the memory that each further one adds."""
    at_once = (1,) if short else COUNTS
    with tempfile.TemporaryDirectory() as folder:
        data = random_fold(Path(folder), FOCUS, 16, 8) if short else random_fold(Path(folder), FOCUS, 240, 80)
        speed = {
            way: [sum(measure_at_once(count, _epochs, way, data, NETWORK, BATCH, short=short)) for count in at_once]
            for way in WAYS
        }
    rows = {
        f"{NETWORK}, {_trials(count)}": (own, plain, own / plain)
        for count, own, plain in zip(at_once, *speed.values(), strict=True)
    }
    for network in LARGER if not short else ():
        with tempfile.TemporaryDirectory() as folder:
            data = random_fold(Path(folder), WHOLE, 32, 8)
            own, plain = (sum(measure_at_once(2, _epochs, way, data, network, 4)) for way in WAYS)
        rows[f"{network}, {_trials(2)}"] = (own, plain, own / plain)
    show("patients/s of trials at once, a thread per trial", ("ours", "plain loop", "ratio"), rows, ratio="ratio")

    patients, shape = (8, FOCUS) if short else (PATIENTS, FINE)
    with tempfile.TemporaryDirectory() as folder:
        data = random_fold(Path(folder), shape, patients, 2, different=4)
        held = [(0, 0.0, 0.0)]
        held += [
            (n, *(sum(measure_at_once(n, _memory, way, data, NETWORK, BATCH, short=short)) for way in WAYS))
            for n in at_once
        ]
    rows = {}
    for (fewer, *before), (count, *after) in pairwise(held):
        own, plain = ((more - less) / (count - fewer) for less, more in zip(before, after, strict=True))
        rows[f"{count} instead of {fewer}"] = (own, plain, own / plain, plain / own)
    columns = ("ours, GB", "plain loop, GB", "share", "times less")
    title = f"memory (PSS) of each further trial, {patients} patients, {NETWORK}"
    show(f"{title}, {'×'.join(map(str, shape))}", columns, rows, ratio="times less")


def _trials(count: int) -> str:
    return f"{count} trial{'s' * (count > 1)}"


def measure_at_once(count: int, work: Callable[..., None], *arguments: object, short: bool = False) -> list[Any]:
    """What `work` measures in each of `count` processes that run it at the same time."""
    kind = context(short=short)
    found, together = kind.Queue(), kind.Barrier(count)
    processes = [kind.Process(target=work, args=(*arguments, found, together)) for _ in range(count)]
    for process in processes:
        process.start()
    results = [found.get(timeout=1800) for _ in processes]
    for process in processes:
        process.join()
    return results


def _trial(way: str, data: FoldData, network: str, batch: int) -> Ours | PlainLoop:
    torch.set_num_threads(1)
    configuration = configure(network, batch)
    return Ours(configuration, data) if way == "ours" else plain_loop(configuration, data)


def _epochs(way: str, data: FoldData, network: str, batch: int, found: Queue[float], together: Barrier) -> None:
    """Patients per second of training and validation, from the second epoch on."""
    trial = _trial(way, data, network, batch)
    trial.train()
    together.wait()
    start = time.perf_counter()
    for _ in range(3):
        trial.train()
        trial.validate()
    found.put(3 * (len(data.training) + len(data.validation)) / (time.perf_counter() - start))


def _memory(way: str, data: FoldData, network: str, batch: int, found: Queue[float], together: Barrier) -> None:
    """The process's share of memory (GB) once it holds all patients and has validated two."""
    trial = _trial(way, data, network, batch)
    trial.validate()
    together.wait()
    found.put(pss() / 1e9)
    together.wait()
