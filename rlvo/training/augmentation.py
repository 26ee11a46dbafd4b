"""Light 3-D augmentation of a training batch: left-right flip, shift, intensity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlvo.config.model import AugmentationConfig

SIDES = ("occlusion_side=left", "occlusion_side=right")


def side_columns(feature_names: Sequence[str]) -> list[int]:
    """The encoded columns of the occlusion side that a flip exchanges; empty where the side is no predictor."""
    return [feature_names.index(name) for name in SIDES] if set(SIDES) <= set(feature_names) else []


def flip_and_shift(
    volumes: Tensor, tabular: Tensor, config: AugmentationConfig, sides: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Each patient flipped along x with its probability and shifted by up to `shift_voxels` along each axis.

    What a shift uncovers is filled with the nearest voxel. Random numbers come from torch's CPU generator.

    Args:
        volumes: [B, C, X, Y, Z].
        tabular: [B, T]; with a flip, the columns `sides` (left, right) change places.
        config: flip probability, largest shift.
        sides: from `side_columns`.
    """
    patients, channels, *shape = volumes.shape
    flipped = torch.rand(patients) < config.flip
    shifts = torch.randint(-config.shift_voxels, config.shift_voxels + 1, (patients, 3))
    x, y, z = (
        (torch.arange(size) - shifts[:, axis, None]).clamp(0, size - 1) for axis, size in enumerate(shape)
    )  # [B, size]: which voxel comes to each place
    x = torch.where(flipped[:, None], shape[0] - 1 - x, x)
    x, y, z = (index.to(volumes.device) for index in (x[:, :, None, None], y[:, None, :, None], z[:, None, None, :]))
    source = ((x * shape[1] + y) * shape[2] + z).flatten(1)[:, None].expand(-1, channels, -1)
    moved = volumes.flatten(2).gather(2, source).view_as(volumes)
    if sides:
        tabular = tabular.clone()
        rows = flipped.nonzero().to(tabular.device)
        tabular[rows, torch.tensor(sides)] = tabular[rows, torch.tensor(sides[::-1])]
    return moved, tabular


def jitter(volumes: Tensor, mean: Tensor, std: Tensor, sd: float, images: int) -> Tensor:
    """Random scale (around the mean) and offset of each patient's and channel's intensities.

    Args:
        volumes: [B, C, X, Y, Z].
        mean, std: [C], what the classifier standardises with.
        sd: SD of scale and offset, in standardised units.
        images: how many channels, the first ones, are images; a vessel mask after them stays as it is.
    """
    mean, std = (values[:images, None, None, None] for values in (mean, std))
    scale, offset = (torch.randn(2, len(volumes), images, 1, 1, 1) * sd).to(volumes.device)
    jittered = volumes.clone()
    jittered[:, :images] += scale * (volumes[:, :images] - mean) + offset * std
    return jittered
