"""How the network sees the two sides of the head: the brain is nearly symmetric, the occlusion is on one side."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlvo.config.grid import Grid
from rlvo.config.model import ModelConfig

RIGHT = "occlusion_side=right"


class Symmetry(nn.Module):
    """Turns and splits standardised volumes as `model.side` and `model.contrast` say.

    With `canonical`, the affected side of every patient comes to lie where the left is: the volumes of patients whose
    table says that the occlusion is on the right are mirrored. With `halves` the mirrored other half then stands beside
    the affected one, as channels of its own. With `mirror_difference` each volume minus its mirror image is added as
    channels. (Comparing the sides finds occlusions with few cases: Barman et al. 2019, DeepSymNet.)

    The buffer `right`, which training sets, is the column of the encoded table that says so; it is saved with the
    weights. A side that is missing is imputed like any other predictor.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.side, self.contrast, self.crops = config.side, config.contrast, config.crop != "whole"
        self.needs_side = "occlusion_side" in config.looked_up
        if self.needs_side:
            self.register_buffer("right", torch.tensor(-1))

    def read_from(self, feature_names: Sequence[str], grid: Grid | None = None) -> None:
        """Find the side among the columns of the encoded table. Raises ValueError if it is needed and not there.

        Args:
            grid: of the volumes; only a `models.crop.Crop` needs it.
        """
        if self.needs_side:
            self.right = torch.tensor(feature_names.index(RIGHT))

    def cut(self, volume: Tensor, tabular: Tensor | None = None, moves: Tensor | None = None) -> Tensor:
        """What of the volume [B, C, X, Y, Z] as stored is looked at: all of it, without a `models.crop.Crop`.

        Args:
            moves: [B, 3], voxels by which the box of a crop lies off its place, in a head whose occlusion is on the
                left.
        """
        return volume

    def forward(self, volume: Tensor, tabular: Tensor | None = None) -> Tensor:
        """[B, C, X, Y, Z], standardised, and the encoded table [B, T] → what the backbone takes.

        Raises ValueError if the side is needed and there is no table.
        """
        volume = self._turn(volume, tabular)
        if self.side == "halves":
            half = self.shape(volume.shape[2:])[0]
            return torch.cat([volume[:, :, :half], volume.flip(2)[:, :, :half]], dim=1)
        return torch.cat([volume, volume - volume.flip(2)], dim=1) if self.contrast != "none" else volume

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Voxels of what the backbone takes, for volumes of this shape [X, Y, Z]."""
        return ((shape[0] + 1) // 2, *shape[1:]) if self.side == "halves" else tuple(shape)

    def restore(self, maps: Tensor, tabular: Tensor | None, shape: Sequence[int]) -> Tensor:
        """Maps [B, *self.shape(shape)] on what the backbone takes → [B, *shape], where the patients' voxels are.

        With `halves` a map is about both halves at once, so both show it.
        """
        if self.side == "halves":
            maps = torch.cat([maps, maps.flip(1)[:, shape[0] % 2 :]], dim=1)
        return self._turn(maps[:, None], tabular)[:, 0]

    def _turn(self, volume: Tensor, tabular: Tensor | None) -> Tensor:
        if self.side == "as_is":
            return volume
        return torch.where(self._is_right(tabular)[:, None, None, None, None], volume.flip(2), volume)

    def _is_right(self, tabular: Tensor | None) -> Tensor:
        """Whether the occlusion is on the right, bool [B]."""
        if tabular is None:
            raise ValueError("this model needs the side of the occlusion from the table")
        return tabular.index_select(1, self.right[None])[:, 0] > 0.5
