"""Several trials at once, ours against as many plain loops: patients per second, and memory that each trial adds."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from queue import Queue
from threading import Barrier

import torch

from benchmarks.measure import show
from benchmarks.plain_loop import PlainLoop
from benchmarks.training import FOCUS, Ours, configure, plain_loop, random_fold
from rlvo.training.dataset import FoldData

NETWORK, BATCH = "demo's DenseNet", 8
PATIENTS, FINE = 479, (98, 116, 94)
"""Whose volumes are held for the memory: the paper's development patients, at 2 mm."""


def benchmark_concurrent() -> None:
    """Print patients per second of one and two trials, one thread each, and the memory that each adds."""
    with tempfile.TemporaryDirectory() as folder:
        data = random_fold(Path(folder), FOCUS, 240, 80)
        speed = {way: [sum(_at_once(count, _epochs, way, data)) for count in (1, 2)] for way in ("ours", "plain")}
    rows = {f"{way}, 1 and 2 trials": each for way, each in speed.items()}
    rows["ratio"] = [own / plain for own, plain in zip(speed["ours"], speed["plain"], strict=True)]
    show(f"patients/s, {NETWORK}, a thread per trial", ("1 trial", "2 trials"), rows)

    with tempfile.TemporaryDirectory() as folder:
        data = random_fold(Path(folder), FINE, PATIENTS, 2, different=4)
        held = {way: [sum(_at_once(count, _memory, way, data)) for count in (1, 2)] for way in ("ours", "plain")}
    added = {way: [after - before for before, after in pairwise([0, *each])] for way, each in held.items()}
    rows = {f"{way}, GB": each for way, each in added.items()}
    rows["ratio"] = [own / plain for own, plain in zip(added["ours"], added["plain"], strict=True)]
    show(f"memory (PSS) with {PATIENTS} patients of 2 × 2 mm", ("first trial", "each further one"), rows)


def _at_once(count: int, work: Callable[..., None], way: str, data: FoldData) -> list[float]:
    """What `work` measures in each of `count` processes that run it at the same time."""
    context = multiprocessing.get_context("spawn")
    found, together = context.Queue(), context.Barrier(count)
    processes = [context.Process(target=work, args=(way, data, found, together)) for _ in range(count)]
    for process in processes:
        process.start()
    results = [found.get() for _ in processes]
    for process in processes:
        process.join()
    return results


def _trial(way: str, data: FoldData) -> Ours | PlainLoop:
    torch.set_num_threads(1)
    configuration = configure(NETWORK, BATCH)
    return Ours(configuration, data) if way == "ours" else plain_loop(configuration, data)


def _epochs(way: str, data: FoldData, found: Queue[float], together: Barrier) -> None:
    """Patients per second of training and validation, from the second epoch on."""
    trial = _trial(way, data)
    trial.train()
    together.wait()
    start = time.perf_counter()
    for _ in range(3):
        trial.train()
        trial.validate()
    found.put(3 * (len(data.training) + len(data.validation)) / (time.perf_counter() - start))


def _memory(way: str, data: FoldData, found: Queue[float], together: Barrier) -> None:
    """The process's share of memory (GB) once it holds all patients and has validated two."""
    trial = _trial(way, data)
    trial.validate()
    together.wait()
    rollup = Path("/proc/self/smaps_rollup").read_text()
    found.put(next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1e6)
    together.wait()
