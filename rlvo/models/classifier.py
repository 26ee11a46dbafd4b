"""The whole network: standardised volume → backbone → fusion with the table → one logit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlvo.config.model import ModelConfig
from rlvo.models.backbones import build_backbone
from rlvo.models.fusion import DAFT, FiLM


class Classifier(nn.Module):
    """Backbone and fusion of a model spec; the logit is that of rLVO.

    The table enters at the last feature map (`film`, `daft`: `modulation`), beside the pooled features (`concat`), or,
    with fusion `none`, not at all. The buffers `channel_mean` and `channel_std`, which training sets, standardise
    the input; `compress_input` then takes its asinh. The options of `daft` hold for `film` too.
    """

    def __init__(self, config: ModelConfig, tabular_features: int) -> None:
        super().__init__()
        self.register_buffer("channel_mean", torch.zeros(len(config.channels)))
        self.register_buffer("channel_std", torch.ones(len(config.channels)))
        self.backbone = build_backbone(config)
        channels = self.backbone.out_channels
        self.modulation: DAFT | None = None
        if config.fusion in ("film", "daft"):
            kind = DAFT if config.fusion == "daft" else FiLM
            self.modulation = kind(channels, tabular_features, **config.daft.model_dump())
        self.compresses = config.compress_input
        self.concatenates = config.fusion == "concat"
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(channels + (tabular_features if self.concatenates else 0), 1)

    def standardise_with(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and SD of each input channel (HU; 0 and 1 leave a channel as it is)."""
        self.channel_mean = torch.as_tensor(mean, dtype=torch.float32)
        self.channel_std = torch.as_tensor(std, dtype=torch.float32)

    def features(self, volume: Tensor) -> Tensor:
        """Volume [B, C, X, Y, Z] as stored → the last feature map, before fusion and activation."""
        mean, std = (buffer[:, None, None, None] for buffer in (self.channel_mean, self.channel_std))
        standardised = (volume - mean) / std
        # Skull and contrast lie tens of SDs from brain tissue: uncompressed, they set the scale of the first batch
        # norm, and the contrast within tissue is lost.
        return self.backbone.features(standardised.asinh() if self.compresses else standardised)

    def classify(self, features: Tensor, tabular: Tensor | None = None) -> Tensor:
        """The last feature map after fusion, and the table [B, T] → logits [B]."""
        pooled = self.backbone.activation(features).mean(dim=(2, 3, 4))
        if self.concatenates:
            pooled = torch.cat([pooled, _required(tabular)], dim=1)
        return self.head(self.dropout(pooled)).squeeze(1)

    def forward(self, volume: Tensor, tabular: Tensor | None = None) -> Tensor:
        """Volume [B, C, X, Y, Z] (HU, vessel channel 0/1) and encoded table [B, T] → logits [B]."""
        features = self.features(volume)
        if self.modulation is not None:
            features = self.modulation(features, _required(tabular))
        return self.classify(features, tabular)


def _required(tabular: Tensor | None) -> Tensor:
    if tabular is None:
        raise ValueError("this model takes the tabular variables, none were given")
    return tabular


def build_classifier(config: ModelConfig, tabular_features: int) -> Classifier:
    """A classifier with random weights (from torch's current random state)."""
    return Classifier(config, tabular_features)
