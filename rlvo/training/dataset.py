"""The patients of one fold, and their prepared volumes as tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rlvo.cohort.encoding import TabularEncoder
from rlvo.errors import PatientError, RlvoError

MEMORY_LIMIT = 1 << 30
"""A fold's volumes are kept in memory up to this many bytes; beyond it, batches are read from the store as needed."""


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


def stack_channels(volumes: Mapping[str, np.ndarray], channels: Sequence[str]) -> np.ndarray:
    """One patient's volumes as [C, X, Y, Z] float16, in the model's order. Raises RlvoError if one is missing."""
    if missing := [name for name in channels if name not in volumes]:
        fix = "Prepare it, or choose a model without it"
        raise RlvoError(f"the model needs the volume '{missing[0]}', which is missing", fix=fix)
    return np.stack([volumes[name] for name in channels]).astype(np.float16, copy=False)


class Volumes:
    """The channels of many patients as one sequence; indexing gives float32 tensors [n, C, X, Y, Z]."""

    def __init__(self, patients: Patients, channels: Sequence[str]) -> None:
        self._patients, self.channels = patients, tuple(channels)
        self._cached: Tensor | None = None
        if len(patients) * self._read(0).nbytes <= MEMORY_LIMIT:
            self._cached = torch.from_numpy(np.stack([self._read(i) for i in range(len(patients))]))

    def _read(self, index: int) -> np.ndarray:
        files = {name: self._patients.volumes[index] / f"{name}.npy" for name in self.channels}
        where = f"patient {self._patients.ids[index]}"
        try:
            volumes = {name: np.load(path, mmap_mode="r") for name, path in files.items() if path.exists()}
            return stack_channels(volumes, self.channels)
        except RlvoError as error:
            raise PatientError(error.what, where=where, fix=error.fix) from None
        except (ValueError, EOFError):
            fix = "Run 'rlvo prepare' on the cohort again: it finds and repairs damaged volumes"
            raise PatientError("damaged volume in the store", where=where, fix=fix) from None

    def __len__(self) -> int:
        return len(self._patients)

    def __getitem__(self, indices: slice | Tensor) -> Tensor:
        if self._cached is not None:
            return self._cached[indices].float()
        chosen = torch.arange(len(self))[indices].tolist()
        return torch.from_numpy(np.stack([self._read(i) for i in chosen])).float()


def channel_statistics(volumes: Volumes, brain_mask: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and SD (HU) of each channel inside the brain, over all patients; 0 and 1 for the vessel mask.

    Args:
        volumes: the training fold's volumes.
        brain_mask: [X, Y, Z] bool.
    """
    channels = volumes.channels
    mask = torch.from_numpy(brain_mask)
    inside = np.zeros((2, len(channels)))
    for i in range(len(volumes)):
        values = volumes[i : i + 1][0][:, mask].double()
        inside += np.stack([values.mean(dim=1), values.square().mean(dim=1)]) / len(volumes)
    mean = inside[0]
    std = np.sqrt(np.maximum(inside[1] - mean**2, 0))
    is_mask = np.array([name == "vessels" for name in channels])
    if flat := [name for name, empty in zip(channels, (std == 0) & ~is_mask, strict=True) if empty]:
        fix = "Look at the prepared volumes' pictures"
        raise RlvoError(f"the volumes '{flat[0]}' are constant inside the brain", fix=fix)
    return np.where(is_mask, 0.0, mean).tolist(), np.where(is_mask, 1.0, std).tolist()
