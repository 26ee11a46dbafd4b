"""The whole network: standardised volume → backbone → fusion with the table → one logit."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from rlvo.config.model import ModelConfig
from rlvo.models.backbones import build_backbone
from rlvo.models.crop import Crop
from rlvo.models.fusion import DAFT, FiLM, Offset
from rlvo.models.symmetry import Symmetry


class Classifier(nn.Module):
    """The backbone and fusion of a model spec, with random weights; gives the logit of rLVO.

    The table acts on the last feature map (`film`, `daft`: `modulation`), joins the pooled features (`concat`), gives
    log-odds to which the network, whose head starts at zero, adds (`offset`), or is not used (`none`). The buffers
    `channel_mean` and `channel_std`, which training sets, standardise the input; `compress_input` then takes its asinh.
    The options of `daft` apply to `film` too.
    """

    def __init__(self, config: ModelConfig, tabular_features: int) -> None:
        super().__init__()
        self.register_buffer("channel_mean", torch.zeros(len(config.channels)))
        self.register_buffer("channel_std", torch.ones(len(config.channels)))
        self.symmetry = Symmetry(config) if config.crop == "whole" else Crop(config)
        self.input_channels = config.input_channels
        self.backbone = build_backbone(config)
        channels = self.backbone.out_channels
        self.modulation: DAFT | None = None
        if config.fusion in ("film", "daft"):
            kind = DAFT if config.fusion == "daft" else FiLM
            self.modulation = kind(channels, tabular_features, **config.daft.model_dump())
        self.compresses = config.compress_input
        self.concatenates = config.fusion == "concat"
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(channels + (tabular_features if self.concatenates else 0), 1)
        self.offset = Offset(tabular_features) if config.fusion == "offset" else None
        if self.offset is not None:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def standardise_with(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and SD of each input channel (in HU; 0 and 1 leave a channel unchanged)."""
        self.channel_mean = torch.as_tensor(mean, dtype=torch.float32)
        self.channel_std = torch.as_tensor(std, dtype=torch.float32)

    def features(self, volume: Tensor, tabular: Tensor | None = None, moves: Tensor | None = None) -> Tensor:
        """Volume [B, C, X, Y, Z] as stored → the last feature map, before fusion and activation.

        The table [B, T] is needed if the model has to know the affected side, or where the occlusion is. In training a
        model with a crop may look elsewhere, by `moves` [B, 3] voxels (`Symmetry.cut`).
        """
        seen = self.standardise(self.symmetry.cut(volume, tabular, moves))
        features: Tensor = self.backbone.features(self.symmetry(seen, tabular))
        return features

    def standardise(self, volume: Tensor) -> Tensor:
        """Volume [B, C, X, Y, Z] as stored (float16 or float32) → what the backbone sees, float32."""
        stored_values = 1 << 16  # there are no more in float16, and asinh is slow on the CPU
        if volume.dtype == torch.float16 and volume.device.type == "cpu" and volume[:, 0].numel() > stored_values:
            table = _standardised_float16(*map(_as_tuple, (self.channel_mean, self.channel_std)), self.compresses)
            first = torch.arange(len(table), dtype=torch.int32)[:, None, None, None] * stored_values
            index = volume.view(torch.int16).int() + (first + stored_values // 2)
            return table.flatten().index_select(0, index.flatten()).view_as(volume)
        return _standardise(volume, self.channel_mean, self.channel_std, self.compresses)

    def pool(self, features: Tensor) -> Tensor:
        """Last feature map, before or after fusion → [B, channels]."""
        pooled: Tensor = self.backbone.activation(features).mean(dim=(2, 3, 4))
        return pooled

    def classify(self, features: Tensor, tabular: Tensor | None = None) -> Tensor:
        """Last feature map after fusion, and table [B, T] → logits [B]."""
        pooled = self.pool(features)
        if self.concatenates:
            pooled = torch.cat([pooled, _required(tabular)], dim=1)
        logits: Tensor = self.head(self.dropout(pooled)).squeeze(1)
        return logits if self.offset is None else logits + self.offset(_required(tabular))

    def forward(self, volume: Tensor, tabular: Tensor | None = None, moves: Tensor | None = None) -> Tensor:
        """Volume [B, C, X, Y, Z] (HU, vessel channel 0/1) and encoded table [B, T] → logits [B]."""
        return self.fuse(self.features(volume, tabular, moves), tabular)

    def fuse(self, features: Tensor, tabular: Tensor | None = None) -> Tensor:
        """Last feature map, before fusion, and table [B, T] → logits [B]: all that the table has a part in."""
        if self.modulation is not None:
            features = self.modulation(features, _required(tabular))
        return self.classify(features, tabular)


def _standardise(volume: Tensor, mean: Tensor, std: Tensor, compress: bool) -> Tensor:
    standardised = (volume.float() - mean[:, None, None, None]) / std[:, None, None, None]
    # Skull and contrast agent are tens of SDs away from brain tissue: uncompressed, they would set the scale of the
    # first batch norm, and the contrast within the tissue would be lost.
    return standardised.asinh() if compress else standardised


@lru_cache(maxsize=16)
def _standardised_float16(mean: tuple[float, ...], std: tuple[float, ...], compress: bool) -> Tensor:
    """What each float16 becomes in each channel [C, 65536], in the order of their bits as a signed integer."""
    values = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.float16)
    volume = values.expand(1, len(mean), -1)[..., None, None]
    return _standardise(volume, torch.tensor(mean), torch.tensor(std), compress).view(len(mean), -1)


def _as_tuple(values: Tensor) -> tuple[float, ...]:
    return tuple(values.tolist())


def _required(tabular: Tensor | None) -> Tensor:
    if tabular is None:
        raise ValueError("this model needs the tabular variables")
    return tabular
