"""Reading for training: rlvo's mapped volumes against MONAI's datasets with a `DataLoader`, on the same files."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import Queue
from threading import Barrier

import torch
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.transforms import Compose
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.concurrent import FINE, measure_at_once
from benchmarks.measure import seconds, show
from benchmarks.plain_loop import files, standardised
from benchmarks.store import pss
from benchmarks.training import FOCUS, configure, first_weights, random_fold
from rlvo.training.dataset import FoldData, Volumes
from rlvo.training.member import read_ahead

CHANNELS, BATCH, PATIENTS = ("ncct", "cta"), 4, 48
MEAN, SD = [35.0, 90.0], [30.0, 30.0]
Epoch = Callable[[], Iterator[Tensor]]
"""Yields batches as the network's first layer sees them: standardised, asinh, float32."""


def benchmark_reading(*, short: bool = False) -> None:
    """Print seconds of the first and of later epochs, nothing being trained, and the memory that the process gains."""
    patients, shape = (8, FOCUS) if short else (PATIENTS, FINE)
    ways = {"rlvo": ours}
    ways |= {kind: partial(monai, kind) for kind in ("CacheDataset", "PersistentDataset", "Dataset")}
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        data = random_fold(Path(folder), shape, patients, 2)
        for way, opened in ways.items():
            ((first, later, memory),) = measure_at_once(1, _measure, opened, data, Path(folder), short=short)
            rows[way] = [first, later, memory]
    for figures in rows.values():
        figures.append(figures[1] / rows["rlvo"][1])
    size = "×".join(map(str, shape))
    columns = ("first epoch, s", "later epochs, s", "memory, MB", "rlvo is as fast, times")
    show(f"reading {patients} patients of two channels, {size}, one thread", columns, rows, ratio=columns[-1])


def ours(data: FoldData, folder: Path) -> Epoch:
    """As training reads: mapped, the next batch while one is used, standardised by a table."""
    classifier = first_weights(configure("demo's DenseNet", BATCH), data)
    classifier.standardise_with(MEAN, SD)

    def epoch() -> Iterator[Tensor]:
        volumes = Volumes(data.training, CHANNELS)
        order = list(torch.randperm(len(volumes)).split(BATCH))
        yield from map(classifier.standardise, read_ahead(volumes, order, torch.device("cpu")))

    return epoch


def monai(kind: str, data: FoldData, folder: Path) -> Epoch:
    """A dataset of MONAI's, which is filled when it is opened, or by its first epoch."""
    rows, transform = files(data.training, CHANNELS), Compose(standardised(MEAN, SD, True))
    made: list[Dataset] = []

    def epoch() -> Iterator[Tensor]:
        if not made:
            caches = {
                "CacheDataset": partial(CacheDataset, progress=False),
                "PersistentDataset": partial(PersistentDataset, cache_dir=folder / "persistent"),
                "Dataset": Dataset,
            }
            made.append(caches[kind](rows, transform))
        for batch in DataLoader(made[0], BATCH, shuffle=True):
            yield batch["volume"]

    return epoch


def _measure(
    opened: Callable[[FoldData, Path], Epoch], data: FoldData, folder: Path, found: Queue[object], together: Barrier
) -> None:
    torch.set_num_threads(1)
    epoch, before = opened(data, folder), pss()

    def whole() -> None:
        for batch in epoch():
            batch.sum()

    found.put((seconds(whole, 1), seconds(whole, 3), (pss() - before) / 1e6))
