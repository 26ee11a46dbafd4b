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
    patients, channels, *shape = volumes.shape
    flipped = torch.rand(patients) < config.flip
    shifts = torch.randint(-config.shift_voxels, config.shift_voxels + 1, (patients, 3))
    x, y, z = (
        (torch.arange(size) - shifts[:, axis, None]).clamp(0, size - 1) for axis, size in enumerate(shape)
    )  # [B, size]: the source voxel of each place
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
