"""Light 3-D augmentation of a training batch: left-right flip, shift, intensity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor

from rlvo.config.grid import Grid
from rlvo.config.training import AugmentationConfig

SIDES = ("occlusion_side=left", "occlusion_side=right")


def side_columns(feature_names: Sequence[str]) -> list[int]:
    """The encoded columns of the occlusion side, which a flip swaps; empty if the side is not a predictor."""
    return [feature_names.index(name) for name in SIDES] if set(SIDES) <= set(feature_names) else []


@dataclass(frozen=True)
class Changes:
    """How the patients of a batch are changed; on the CPU."""

    flipped: Tensor
    """[B] bool: along x."""
    shifts: Tensor
    """[B, 3]: voxels along each axis."""
    intensities: Tensor | None
    """[2, B, C, 1, 1, 1]: scale − 1 and offset of each image, in standardised units; None: as they are."""
    moves: Tensor | None = None
    """[B, 3]: voxels by which a crop's box lies off its place; None: it does not."""

    @classmethod
    def draw(cls, config: AugmentationConfig, patients: int, images: int, grid: Grid | None = None) -> Changes:
        """Random changes, from torch's CPU generator.

        Args:
            config: flip probability, largest shift, and SD of the intensities' scale and offset.
            patients: B.
            images: C, how many of the channels are images and no vessel mask.
            grid: of the volumes, if the network crops them.
        """
        flipped = torch.rand(patients) < config.flip
        shifts = torch.randint(-config.shift_voxels, config.shift_voxels + 1, (patients, 3))
        noise = torch.randn(2, patients, images, 1, 1, 1) * config.intensity if config.intensity > 0 else None
        if grid is None or config.crop_shift_mm == 0:
            return cls(flipped, shifts, noise)
        offset_mm = (2 * torch.rand(patients, 3) - 1) * config.crop_shift_mm
        return cls(flipped, shifts, noise, (offset_mm / torch.tensor(grid.spacing)).round().long())

    def split(self, sizes: list[int]) -> Iterator[Changes]:
        """The changes of consecutive parts of the batch, of these sizes."""
        noise = repeat(None) if self.intensities is None else torch.split(self.intensities, sizes, dim=1)
        moves = repeat(None) if self.moves is None else torch.split(self.moves, sizes)
        yield from map(Changes, torch.split(self.flipped, sizes), torch.split(self.shifts, sizes), noise, moves)


def flip_and_shift(volumes: Tensor, tabular: Tensor, changes: Changes, sides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Flip patients along x and shift them; voxels that a shift uncovers repeat the nearest one.

    Args:
        volumes: [B, C, X, Y, Z].
        tabular: [B, T] on the CPU; a flip swaps the columns `sides` (left, right).
        changes: of these patients.
        sides: from `side_columns`.
    """
    flipped = changes.flipped
    moves = zip(volumes, flipped.tolist(), changes.shifts.tolist(), strict=True)
    moved = torch.stack([_shift(volume.flip(1) if flip else volume, shift) for volume, flip, shift in moves])
    if sides:
        tabular = tabular.clone()
        rows = flipped.nonzero()
        tabular[rows, torch.tensor(sides)] = tabular[rows, torch.tensor(sides[::-1])]
    return moved, tabular


def _shift(volume: Tensor, shift: Sequence[int]) -> Tensor:
    """[C, X, Y, Z], moved by a number of voxels along each axis."""
    for axis, (by, size) in enumerate(zip(shift, volume.shape[1:], strict=True), start=1):
        if by:
            new = min(abs(by), size)
            edge = volume.narrow(axis, 0 if by > 0 else size - 1, 1)
            kept = volume.narrow(axis, 0 if by > 0 else new, size - new)
            volume = torch.cat([edge] * new + [kept] if by > 0 else [kept] + [edge] * new, axis)
    return volume


def jitter(volumes: Tensor, mean: Tensor, std: Tensor, intensities: Tensor) -> Tensor:
    """Scale (around the mean) and offset the intensities of each patient and image.

    Args:
        volumes: [B, C, X, Y, Z]; a vessel mask after the images is not changed.
        mean, std: [C], with which the classifier standardises.
        intensities: of `Changes`.
    """
    scale, offset = intensities.to(volumes.device, non_blocking=True)
    images = scale.shape[1]
    mean, std = (values[:images, None, None, None] for values in (mean, std))
    jittered = volumes.clone()
    jittered[:, :images] += scale * (volumes[:, :images] - mean) + offset * std
    return jittered
