"""The task of `rlvo pretrain`: blocks of a head are hidden, and the image network's last map tells what they hide.

(Masked image modelling: Xie et al. 2022, SimMIM; for CT, Tang et al. 2022.) It needs no outcome.
"""

from collections.abc import Sequence
from math import ceil, log2

import torch
from monai.networks.utils import pixelshuffle
from torch import Tensor, nn

from rlvo.config.grid import Grid
from rlvo.config.model import ModelConfig
from rlvo.models.backbones import build_backbone
from rlvo.models.classifier import Classifier
from rlvo.models.crop import SITES, as_whole
from rlvo.models.symmetry import Symmetry
from rlvo.training.augmentation import SIDES

BLOCK_MM = 16.0
"""Side of the blocks that are hidden: larger than a vessel, so that it cannot be copied from beside it."""
HIDDEN = 0.5
"""Share of the blocks that are hidden."""
PATCH = 8
"""The decoder tells at most so many voxels per axis for each voxel of the last map."""
WIDTH = 128
"""Channels of the decoder."""
PLACES = (*SIDES, *SITES)
"""What a model with `side` or `crop` looks up in the encoded table; of an unlabelled head it is drawn."""


def draw_places(patients: int) -> Tensor:
    """A random side and site of each patient's occlusion, as the table would tell them: [B, len(PLACES)] of 0 and 1."""
    side, site = torch.randint(len(SIDES), (patients,)), torch.randint(len(SITES), (patients,))
    return torch.cat([torch.eye(len(SIDES))[side], torch.eye(len(SITES))[site]], dim=1)


def draw_blocks(shape: Sequence[int], block: Sequence[int], patients: int) -> Tensor:
    """Which voxels are hidden: bool [B, 1, X, Y, Z], from torch's CPU generator.

    The volume is divided into blocks of `block` voxels, which begin at a random place; of the blocks, cut ones at the
    edges included, the share HIDDEN is hidden in each patient.
    """
    counts = [ceil(size / side) + 1 for size, side in zip(shape, block, strict=True)]
    total = counts[0] * counts[1] * counts[2]
    rank = torch.rand(patients, total).argsort(dim=1).argsort(dim=1)
    hidden = (rank < round(HIDDEN * total)).view(patients, *counts)
    starts = [torch.randint(side, ()).item() for side in block]
    for axis, (size, side, start) in enumerate(zip(shape, block, starts, strict=True), start=1):
        hidden = hidden.repeat_interleave(side, dim=axis).narrow(axis, int(start), size)
    return hidden[:, None]


class Decoder(nn.Module):
    """The last map, activated [B, F, x, y, z] → what it tells of the images [B, T, X, Y, Z]; it serves here only.

    Two convolutions give each voxel of the map a patch of voxels, which are repeated to the size that a voxel of the
    map stands for; at the far edges that is cut, or continued, to the shape of the volume.
    """

    def __init__(self, features: int, images: int, stride: int) -> None:
        super().__init__()
        self.patch, self.times = min(stride, PATCH), max(stride // PATCH, 1)
        self.layers = nn.Sequential(
            nn.Conv3d(features, WIDTH, 3, padding=1), nn.ReLU(), nn.Conv3d(WIDTH, images * self.patch**3, 1)
        )

    def forward(self, features: Tensor, shape: Sequence[int]) -> Tensor:
        told: Tensor = pixelshuffle(self.layers(features), 3, self.patch)
        for axis, size in enumerate(shape, start=2):
            place = (torch.arange(size, device=told.device) // self.times).clamp(max=told.shape[axis] - 1)
            told = told.index_select(axis, place)
        return told


def stride_of(model: ModelConfig, grid: Grid) -> int:
    """How many voxels along an axis a voxel of the last map stands for, a power of two."""
    whole, shape = as_whole(model, grid.shape, grid)
    shape = Symmetry(whole).shape(shape)
    with torch.device("meta"), torch.no_grad():
        last = build_backbone(model).eval()(torch.empty(1, model.input_channels, *shape)).shape[2:]
    return int(2 ** round(max(log2(size / found) for size, found in zip(shape, last, strict=True))))


class MaskedTask(nn.Module):
    """An image network with a decoder, and the error of what they tell of hidden blocks.

    Args:
        model: the model spec; its fusion plays no part.
        grid: of the volumes.

    Attributes:
        classifier: holds the image network, its standardisation, and how it sees the two sides; its head is not used.
        means: [T], the mean of each image inside the head, standardised; training sets it.
    """

    means: Tensor

    def __init__(self, model: ModelConfig, grid: Grid) -> None:
        super().__init__()
        self.classifier = Classifier(model, len(PLACES))
        self.classifier.symmetry.read_from(PLACES, grid)
        self.block = tuple(max(1, round(BLOCK_MM / spacing)) for spacing in grid.spacing)
        images, halves = [i for i, name in enumerate(model.channels) if name != "vessels"], model.side == "halves"
        self.images = len(images)
        self.targets = [*images, *(len(model.channels) + i for i in images if halves)]
        self.register_buffer("means", torch.zeros(len(self.targets)))
        self.decoder = Decoder(self.classifier.backbone.out_channels, len(self.targets), stride_of(model, grid))

    def sums(self, volume: Tensor, head: Tensor, places: Tensor, moves: Tensor | None = None) -> Tensor:
        """Squared errors, summed over hidden voxels inside the head: of what is told, and of the mean instead: [2].

        Args:
            volume: [B, C, X, Y, Z], as stored or jittered.
            head: [B, 1, X, Y, Z], 1 inside of the head and 0 outside, moved as the volume was.
            places: of `draw_places`.
            moves: of a model with a crop, see `Symmetry.cut`.
        """
        target, told, counted = self.tell(volume, head, places, moves)
        counted = counted.expand_as(target)
        return torch.stack(
            [
                ((told.float() - target).square() * counted).sum(),
                ((self.means[:, None, None, None] - target).square() * counted).sum(),
            ]
        )

    def tell(
        self, volume: Tensor, head: Tensor, places: Tensor, moves: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the images are, standardised; what is told of them; and 1 where that counts, else 0.

        The first two are [B, T, x, y, z], laid out as the backbone's channels; the last may have one channel for all.
        Arguments are those of `sums`.
        """
        symmetry = self.classifier.symmetry
        cut, within = (symmetry.cut(each, places, moves) for each in (volume, head))
        seen = self.classifier.standardise(cut)
        hidden = draw_blocks(seen.shape[2:], self.block, len(seen)).to(seen.device)
        target = symmetry(seen, places)[:, self.targets]
        asked = symmetry(seen.masked_fill(hidden, 0), places)
        counted = symmetry(within.to(seen.dtype) * hidden, places)
        both = len(self.targets) > self.images  # halves: the own one, and the mirrored other one
        counted = counted.repeat_interleave(self.images, dim=1) if both else counted[:, :1]
        features = self.classifier.backbone.activation(self.classifier.backbone.features(asked))
        return target, self.decoder(features, target.shape[2:]), counted
