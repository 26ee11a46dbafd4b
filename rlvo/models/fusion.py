"""Fusions of the image network with the tabular variables: DAFT and FiLM of the last feature map, and the offset.

DAFT (Wolf et al., NeuroImage 2022; González et al. 2025, eq. 1–2), implemented from the equations:

    P = global average of F,  x = ReLU(W1 [P; T]),  [S; B] = W2 x,  F' = F·S + B

with one scale and one shift per channel. FiLM (Perez et al., AAAI 2018) is the same without P here.
"""

from typing import Literal

import torch
from torch import Tensor, nn

ScaleActivation = Literal["linear", "sigmoid", "tanh"]


class DAFT(nn.Module):
    """Dynamic affine feature map transform.

    Args:
        image_channels: C, channels of the feature map.
        tabular_features: T, encoded tabular variables.
        bottleneck_ratio: the hidden layer has int((C + T) / bottleneck_ratio) units, at least one.
        bias: whether the two linear layers have biases.
        scale_activation: applied to the scale.
        scale: whether to scale; an omitted scale is 1.
        shift: whether to shift; an omitted shift is 0.
        identity_init: start from F' = F: `expand` starts at zero, and an offset makes the scale start at 1.

    Raises ValueError if both scale and shift are omitted.
    """

    uses_image = True

    def __init__(
        self,
        image_channels: int,
        tabular_features: int,
        *,
        bottleneck_ratio: int = 7,
        bias: bool = False,
        scale_activation: ScaleActivation = "linear",
        scale: bool = True,
        shift: bool = True,
        identity_init: bool = False,
    ) -> None:
        super().__init__()
        if not (scale or shift):
            raise ValueError("a fusion without scale and without shift does nothing")
        self.scale, self.shift = scale, shift
        self.scale_activation = {"linear": nn.Identity, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}[scale_activation]()
        hidden = max(1, int((image_channels + tabular_features) / bottleneck_ratio))
        inputs = tabular_features + (image_channels if self.uses_image else 0)
        self.squeeze = nn.Linear(inputs, hidden, bias=bias)
        self.expand = nn.Linear(hidden, image_channels * (scale + shift), bias=bias)
        self.scale_offset = 0.0
        if identity_init:
            nn.init.zeros_(self.expand.weight)
            if bias:
                nn.init.zeros_(self.expand.bias)
            self.scale_offset = 0.5 if scale_activation == "sigmoid" else 1.0

    def scale_and_shift(self, pooled: Tensor, tabular: Tensor) -> tuple[Tensor, Tensor]:
        """S and B, each [B, C], from the pooled map [B, C] and the encoded table [B, T]."""
        inputs = torch.cat([pooled, tabular], dim=-1) if self.uses_image else tabular
        outputs = self.expand(torch.relu(self.squeeze(inputs)))
        channels = pooled.shape[-1]
        scale, shift = torch.ones_like(pooled), torch.zeros_like(pooled)
        if self.scale:
            scale = self.scale_activation(outputs[..., :channels]) + self.scale_offset
        if self.shift:
            shift = outputs[..., -channels:]
        return scale, shift

    def forward(self, features: Tensor, tabular: Tensor) -> Tensor:
        """[B, C, X, Y, Z] and [B, T] → [B, C, X, Y, Z]."""
        scale, shift = self.scale_and_shift(features.mean(dim=(2, 3, 4)), tabular)
        return features * scale[:, :, None, None, None] + shift[:, :, None, None, None]


class FiLM(DAFT):
    """Scale and shift from the table alone; all else is as in DAFT, so that the two can be compared."""

    uses_image = False


class Offset(nn.Module):
    """The clinical log-odds that the network adds to: coefficients · T + intercept.

    Training fits them beforehand (`training.offset`); they are buffers, saved with the weights, that no step changes.
    """

    coefficients: Tensor
    intercept: Tensor

    def __init__(self, tabular_features: int) -> None:
        super().__init__()
        self.register_buffer("coefficients", torch.zeros(tabular_features))
        self.register_buffer("intercept", torch.zeros(()))

    def forward(self, tabular: Tensor) -> Tensor:
        """[B, T] → [B]."""
        return (tabular * self.coefficients).sum(dim=1) + self.intercept
