"""The store against MONAI's PersistentDataset and CacheDataset over the same volumes: time, disk and memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch
from monai.data import CacheDataset, PersistentDataset
from monai.transforms import Compose, ConcatItemsd, EnsureChannelFirstd, LoadImaged, ScaleIntensityRanged
from torch import Tensor

from benchmarks.measure import context, show
from rlvo.config.grid import PRESETS, Grid
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.store import VolumeStore, open_volumes
from rlvo.imaging.target import WINDOWS, Target
from rlvo.synthetic.cohort import MIN_PATIENTS, write_synthetic_cohort

PATIENTS = 4
CHANNELS = ("ncct", "cta")
Files = list[dict[str, Path]]
Way = Callable[[Path, Files], Iterator[Tensor]]
"""Opens the volumes and yields each patient's, float32 [C, X, Y, Z]; its first argument is a folder for its cache."""


def write_volumes(folder: Path, grid: Grid) -> Files:
    """Write synthetic patients that are on the grid already, so that only storing and reading are compared."""
    write_synthetic_cohort(folder, patients=MIN_PATIENTS, profile="demo", seed=0, grid=grid)
    patients = sorted((folder / "volumes").iterdir())[:PATIENTS]
    # With the vessels, or else the store would look for them, which the others do not.
    return [{name: patient / f"{name}.nii.gz" for name in (*CHANNELS, "vessels")} for patient in patients]


def from_store(grid: Grid, folder: Path, files: Files) -> Iterator[Tensor]:
    """Read rlvo's store, preparing it first if necessary."""
    store = VolumeStore(folder / "store")
    result = prepare_cohort(
        {str(number): each for number, each in enumerate(files)}, Target(grid=grid), store, workers=1
    )
    yield from from_entries([store.folder(each.address) for each in result.prepared.values()])


def from_entries(folders: Sequence[Path]) -> Iterator[Tensor]:
    """Read entries at known places, as a trial does."""
    opened = [open_volumes(folder) for folder in folders]
    for volumes in opened:
        yield torch.from_numpy(np.stack([volumes[name] for name in CHANNELS])).float()


def from_monai(kind: str, folder: Path, files: Files) -> Iterator[Tensor]:
    """Read MONAI's dataset with the same clipping."""
    transform = Compose(
        [
            LoadImaged(CHANNELS, reader="NibabelReader", image_only=True),
            EnsureChannelFirstd(CHANNELS),
            *(ScaleIntensityRanged(name, *WINDOWS[name], *WINDOWS[name], clip=True) for name in CHANNELS),
            ConcatItemsd(CHANNELS, "image"),
        ]
    )
    items = [{name: str(path) for name, path in each.items()} for each in files]
    if kind == "PersistentDataset":
        data = PersistentDataset(items, transform, cache_dir=folder / "persistent")
    else:
        data = CacheDataset(items, transform, progress=False)
    for number in range(len(data)):
        yield data[number]["image"]


def benchmark_store(*, short: bool = False) -> None:
    """Print times, disk and memory of each way."""
    grid, counts = (PRESETS["focus"], (1,)) if short else (PRESETS["paper"], (1, 2, 4))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_volumes(folder / "raw", grid)
        ways: dict[str, Way] = {
            "rlvo store": partial(from_store, grid),
            "PersistentDataset": partial(from_monai, "PersistentDataset"),
            "CacheDataset": partial(from_monai, "CacheDataset"),
        }
        caches = {"rlvo store": folder / "store", "PersistentDataset": folder / "persistent"}
        rows = {}
        for way, read in ways.items():
            first = sum(_timed(read(folder, files)))
            opened, passed = _timed(read(folder, files))
            disk = sum(path.stat().st_size for path in caches[way].rglob("*") if path.is_file()) if way in caches else 0
            rows[way] = (first, opened, passed, disk / PATIENTS / 1e6)
        show(
            f"{PATIENTS} patients, two channels at the paper's grid; start: to the first patient, first: with one pass",
            ("first start, s", "later start, s", "pass, s", "disk, MB each"),
            rows,
        )
        entries = [entry.parent for entry in (folder / "store").glob("*/*/ncct.npy")]
        readers = {
            "rlvo store": partial(from_entries, entries),
            "CacheDataset": partial(from_monai, "CacheDataset", folder, files),
        }
        memory = {way: [_memory(read, count, short=short) for count in counts] for way, read in readers.items()}
        show("memory (PSS) that readers of all patients add, MB", [f"{count} reader(s)" for count in counts], memory)


def _timed(volumes: Iterator[Tensor]) -> tuple[float, float]:
    """Measure seconds to the first patient, and for those after it; every voxel is read."""
    start = time.perf_counter()
    next(volumes).sum()
    first = time.perf_counter() - start
    for volume in volumes:
        volume.sum()
    return first, time.perf_counter() - start - first


def _memory(read: Callable[[], Iterator[Tensor]], readers: int, *, short: bool) -> float:
    """Measure MB that processes gain together by opening and reading all volumes once; shared pages count once."""
    kind = context(short=short)
    barrier = kind.Barrier(readers + 1)
    processes = [kind.Process(target=_hold, args=(read, barrier)) for _ in range(readers)]
    for process in processes:
        process.start()
    used = []
    for _ in ("before reading", "after it"):
        barrier.wait()
        used.append(sum(pss(process.pid) for process in processes))
        barrier.wait()
    for process in processes:
        process.join()
    return (used[1] - used[0]) / 1e6


def _hold(read: Callable[[], Iterator[Tensor]], barrier: Barrier) -> None:
    barrier.wait()
    barrier.wait()
    volumes = read()
    for _ in range(PATIENTS):  # not to its end, which would release the volumes
        next(volumes).sum()
    barrier.wait()
    barrier.wait()


def pss(pid: int | str | None = "self") -> int:
    """Proportional set size in bytes: a page that n processes share counts 1/n in each (Linux)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
