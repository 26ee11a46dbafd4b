"""The store against MONAI's PersistentDataset and CacheDataset over the same volumes: time, disk and memory."""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.data import CacheDataset, PersistentDataset
from monai.transforms import Compose, ConcatItemsd, EnsureChannelFirstd, LoadImaged, ScaleIntensityRanged
from torch import Tensor

from benchmarks.measure import show
from rlvo.config.grid import PRESETS
from rlvo.imaging.cohort_preparation import prepare_cohort
from rlvo.imaging.store import VolumeStore, open_volumes
from rlvo.imaging.target import WINDOWS, Target

# MONAI warns, in every process, about a decoder that is not used here.
warnings.filterwarnings("ignore", "NvImgCodecPydicomReader")
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)

PATIENTS = 4
TARGET = Target(grid="paper")
GRID = PRESETS["paper"]
CHANNELS = ("ncct", "cta")
Files = list[dict[str, Path]]
Way = Callable[[Path, Files], Iterator[Tensor]]
"""Opens the volumes and yields each patient's, float32 [C, X, Y, Z]; its first argument is a folder for its cache."""


def write_volumes(folder: Path) -> Files:
    """Write patients' volumes that are on the grid already, so that only storing and reading are compared."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    vessels = folder / "vessels.nii"
    nibabel.save(nibabel.Nifti1Image((rng.random(GRID.shape) < 0.01).astype(np.uint8), GRID.affine), vessels)
    files: Files = []
    for patient in range(PATIENTS):
        files.append({name: folder / f"{patient}-{name}.nii" for name in CHANNELS})
        for path in files[-1].values():
            hu = rng.integers(-100, 500, GRID.shape, dtype=np.int16)
            nibabel.save(nibabel.Nifti1Image(hu, GRID.affine), path)
        files[-1]["vessels"] = vessels  # otherwise the store would look for vessels, which the others do not
    return files


def from_store(folder: Path, files: Files) -> Iterator[Tensor]:
    """Read rlvo's store, preparing it first if necessary."""
    store = VolumeStore(folder / "store")
    result = prepare_cohort({str(number): each for number, each in enumerate(files)}, TARGET, store, workers=1)
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


def benchmark_store() -> None:
    """Print times, disk and memory of each way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_volumes(folder / "raw")
        ways: dict[str, Way] = {
            "rlvo store": from_store,
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
        memory = {way: [_memory(read, count) for count in (1, 2, 4)] for way, read in readers.items()}
        show("memory (PSS) that readers of all patients add, MB", ("1 reader", "2 readers", "4 readers"), memory)


def _timed(volumes: Iterator[Tensor]) -> tuple[float, float]:
    """Measure seconds to the first patient, and for those after it; every voxel is read."""
    start = time.perf_counter()
    next(volumes).sum()
    first = time.perf_counter() - start
    for volume in volumes:
        volume.sum()
    return first, time.perf_counter() - start - first


def _memory(read: Callable[[], Iterator[Tensor]], readers: int) -> float:
    """Measure MB that processes gain together by opening and reading all volumes once; shared pages count once."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(readers + 1)
    processes = [context.Process(target=_hold, args=(read, barrier)) for _ in range(readers)]
    for process in processes:
        process.start()
    used = []
    for _ in ("before reading", "after it"):
        barrier.wait()
        used.append(sum(_pss(process.pid) for process in processes))
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


def _pss(pid: int | None) -> int:
    """Proportional set size in bytes: a page that n processes share counts 1/n in each (Linux)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
