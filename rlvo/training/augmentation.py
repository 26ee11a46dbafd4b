"""Light 3-D augmentation of a training batch: left-right flip, shift, intensity."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlvo.config.model import AugmentationConfig

SIDES = ("occlusion_side=left", "occlusion_side=right")


def side_columns(feature_names: Sequence[str]) -> list[int]:
    """The encoded columns of the occlusion side, which a flip swaps; empty if the side is not a predictor."""
    return [feature_names.index(name) for name in SIDES] if set(SIDES) <= set(feature_names) else []


def flip_and_shift(
    volumes: Tensor, tabular: Tensor, config: AugmentationConfig, sides: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Randomly flip each patient along x and shift it by up to `shift_voxels` along each axis.

    Voxels that a shift uncovers repeat the nearest one. The random numbers come from torch's CPU generator.

    Args:
        volumes: [B, C, X, Y, Z].
        tabular: [B, T]; a flip swaps the columns `sides` (left, right).
        config: flip probability and largest shift.
        sides: from `side_columns`.
    """
    flipped = torch.rand(len(volumes)) < config.flip
    shifts = torch.randint(-config.shift_voxels, config.shift_voxels + 1, (len(volumes), 3))
    moves = zip(volumes, flipped.tolist(), shifts.tolist(), strict=True)
    moved = torch.stack([_shift(volume.flip(1) if flip else volume, shift) for volume, flip, shift in moves])
    if sides:
        tabular = tabular.clone()
        rows = flipped.nonzero().to(tabular.device)
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


def jitter(volumes: Tensor, mean: Tensor, std: Tensor, sd: float, images: int) -> Tensor:
    """Randomly scale (around the mean) and offset the intensities of each patient and channel.

    Args:
        volumes: [B, C, X, Y, Z].
        mean, std: [C], with which the classifier standardises.
        sd: SD of scale and offset, in standardised units.
        images: how many of the first channels are images; a vessel mask after them is not changed.
    """
    mean, std = (values[:images, None, None, None] for values in (mean, std))
    scale, offset = (torch.randn(2, len(volumes), images, 1, 1, 1) * sd).to(volumes.device)
    jittered = volumes.clone()
    jittered[:, :images] += scale * (volumes[:, :images] - mean) + offset * std
    return jittered
