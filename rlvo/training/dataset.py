"""The patients of one fold, and their prepared volumes as tensors."""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlvo.cohort.encoding import TabularEncoder
from rlvo.config.grid import Grid
from rlvo.errors import PatientError, RlvoError

IDENTITY = ("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
"""Of a file's state: what changes with its content."""
STORED_TYPES = (np.dtype(np.float16), np.dtype(np.uint8))


@dataclass(frozen=True)
class Patients:
    """Patients in a fixed order. Holds paths, not images, so it is cheap to send to a worker."""

    ids: tuple[str, ...]
    volumes: tuple[Path, ...]
    """Each patient's folder in the store, with one `.npy` file per volume."""
    tabular: np.ndarray
    """Encoded table [N, T] float32."""
    labels: np.ndarray
    """[N], 0 or 1."""
    persons: tuple[str, ...] = ()
    """Whose row each is, if one person has several; empty: each patient is another person."""
    measured: np.ndarray | None = None
    """bool [N, T]: whether each cell of `tabular` was measured and not imputed; None: all were."""
    offset: np.ndarray | None = None
    """[N] float32: the clinical log-odds that the network adds to, from regressions that did not see the patient. None:
    those of the model's own regression, which was fitted on others."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class FoldData:
    """Everything a trial is trained and validated on."""

    training: Patients
    validation: Patients
    brain_mask: np.ndarray
    """[X, Y, Z] bool: the voxels whose intensities give the mean and SD for standardisation."""
    encoder: TabularEncoder
    """The fold's encoder, which made `tabular`."""
    grid: Grid | None = None
    """Of the volumes; models with a crop need it."""


def stack_channels(
    volumes: Mapping[str, np.ndarray], channels: Sequence[str], absent: Collection[str] = ()
) -> np.ndarray:
    """One patient's volumes as [C, X, Y, Z] float16, in the model's order; those that may be `absent` are 0.

    Raises RlvoError if another one is missing.
    """
    there = [name for name in channels if name not in absent]
    _check_channels(volumes, there)
    nothing = np.zeros_like(volumes[there[0]])
    return np.stack([volumes[name] if name in there else nothing for name in channels]).astype(np.float16, copy=False)


def _check_channels(there: Collection[str], channels: Sequence[str]) -> None:
    if missing := [name for name in channels if name not in there]:
        fix = "Prepare it, or choose a model without it"
        raise RlvoError(f"the model needs the volume '{missing[0]}', which is missing", fix=fix)


class Volumes:
    """The channels of many patients as one sequence; indexing gives float16 tensors [n, C, X, Y, Z].

    The store's files are mapped, so that all trials of a node share one copy in memory. Raises PatientError if a volume
    is missing or damaged.
    """

    def __init__(self, patients: Patients, channels: Sequence[str]) -> None:
        self.channels = tuple(channels)
        self._patients = patients
        self._states: list[list[os.stat_result]] = []
        self._mapped = [self._map(i) for i in range(len(patients))]

    def _map(self, index: int) -> list[np.ndarray]:
        from rlvo.imaging.store import is_as_prepared  # and readers of DICOM and NIfTI: only if volumes are read

        files = self._files(index)
        try:
            _check_channels([name for name, path in files.items() if path.exists()], self.channels)
            self._states.append([path.stat() for path in files.values()])
            mapped = [_map_array(path) for path in files.values()]
            if not all(map(is_as_prepared, files.values())):
                raise ValueError("its content has changed")
        except RlvoError as error:
            raise PatientError(error.what, where=self._where(index), fix=error.fix) from None
        except (OSError, ValueError, EOFError, RuntimeError):
            raise self._damaged(index) from None
        return mapped

    def check_unchanged(self) -> None:
        """Raise PatientError if a volume is no longer what it was when it was mapped; looks at times and sizes."""
        for index, states in enumerate(self._states):
            for place, path in enumerate(self._files(index).values()):
                if (now := _unchanged(path, states[place])) is None:
                    raise self._damaged(index)
                states[place] = now

    def _files(self, index: int) -> dict[str, Path]:
        return {name: self._patients.volumes[index] / f"{name}.npy" for name in self.channels}

    def _where(self, index: int) -> str:
        return f"patient {self._patients.ids[index]}"

    def _damaged(self, index: int) -> PatientError:
        fix = "Prepare the cohort again: that finds and repairs damaged volumes"
        return PatientError("damaged volume in the store", where=self._where(index), fix=fix)

    def __len__(self) -> int:
        return len(self._mapped)

    def __getitem__(self, indices: slice | Tensor) -> Tensor:
        chosen = [self._mapped[i] for i in torch.arange(len(self))[indices].tolist()]
        batch = torch.empty(len(chosen), len(self.channels), *self._mapped[0][0].shape, dtype=torch.float16)
        # NumPy copies: torch would start OpenMP threads for the thread that reads ahead, which spin beside those of the
        # network and take a third of its speed.
        for patient, volumes in zip(batch.numpy(), chosen, strict=True):
            for channel, volume in zip(patient, volumes, strict=True):
                channel[...] = volume
        return batch


def _unchanged(path: Path, before: os.stat_result) -> os.stat_result | None:
    """The state of a file if what is mapped of it is what was prepared, also if it was touched or linked."""
    from rlvo.imaging.store import is_as_prepared

    try:
        now = path.stat()
        is_same = all(getattr(now, name) == getattr(before, name) for name in IDENTITY)
        if not is_same and (now.st_ino != before.st_ino or not is_as_prepared(path)):
            return None
    except (OSError, RlvoError):
        return None
    return now


def _map_array(path: Path) -> np.ndarray:
    """A volume of the store (float16 or uint8); unlike `np.memmap`, it keeps no file open.

    Raises ValueError, EOFError or RuntimeError if the file is damaged.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    if is_fortran or dtype not in STORED_TYPES:
        raise ValueError(f"not as the store writes it: {dtype}")
    size = start + math.prod(shape) * dtype.itemsize
    content = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    return content[start:].view(dtype).reshape(shape)


def channel_statistics(volumes: Volumes, brain_mask: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and SD (HU) of each channel inside the brain, over all patients; 0 and 1 for the vessel mask.

    Args:
        volumes: the training fold's volumes.
        brain_mask: [X, Y, Z] bool.
    """
    channels = volumes.channels
    voxels = torch.from_numpy(np.flatnonzero(brain_mask))
    inside = np.zeros((2, len(channels)))
    for i in range(len(volumes)):
        values = volumes[i : i + 1][0].flatten(1).index_select(1, voxels).double()
        mean = values.mean(dim=1)
        inside += np.stack([mean, values.square_().mean(dim=1)]) / len(volumes)
    mean = inside[0]
    std = np.sqrt(np.maximum(inside[1] - mean**2, 0))
    is_mask = np.array([name == "vessels" for name in channels])
    if flat := [name for name, empty in zip(channels, (std == 0) & ~is_mask, strict=True) if empty]:
        fix = "Look at the prepared volumes' pictures"
        raise RlvoError(f"the volumes '{flat[0]}' are constant inside the brain", fix=fix)
    return np.where(is_mask, 0.0, mean).tolist(), np.where(is_mask, 1.0, std).tolist()
