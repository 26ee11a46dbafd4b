"""The cost of a model, computed without running it (meta device)."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from rlvo.config.model import ModelConfig
from rlvo.models.classifier import Classifier

BATCH = 2
"""Size of the measured batch: batch norm refuses a single volume if the last map is one voxel."""


@dataclass(frozen=True)
class ModelCost:
    """The cost of one volume.

    Attributes:
        parameters: number of trainable weights.
        forward_gflop: 1e9 floating-point operations of a forward pass (a multiplication and an addition count as two).
        activation_bytes: memory that a forward pass in fp32 keeps for the backward pass, without the weights.
        last_map: channels and voxels of the last feature map.
    """

    parameters: int
    forward_gflop: float
    activation_bytes: int
    last_map: tuple[int, ...]


@cache
def model_cost(config: ModelConfig, grid_shape: tuple[int, ...], tabular_features: int) -> ModelCost:
    """Measure a model spec on volumes of `grid_shape` voxels with `tabular_features` encoded variables.

    The grid must pass `models.backbones.check_volume` at some batch size.
    """
    with torch.device("meta"):
        classifier = Classifier(config, tabular_features).train()
        volume = torch.empty(BATCH, len(config.channels), *grid_shape)
        tabular = torch.empty(BATCH, tabular_features)
    weights = {tensor.untyped_storage()._cdata for tensor in classifier.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    maps: list[Tensor] = []
    operations = 0

    def count(layer: nn.Conv3d | nn.Linear, given: object, output: Tensor) -> None:
        nonlocal operations
        operations += 2 * layer.weight.numel() * output.numel() // output.shape[1]  # each weight at each place

    classifier.backbone.features.register_forward_hook(lambda *call: maps.append(call[-1]))
    for layer in classifier.modules():
        if isinstance(layer, nn.Conv3d | nn.Linear):
            layer.register_forward_hook(count)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        classifier(volume, tabular)
    return ModelCost(
        parameters=sum(tensor.numel() for tensor in classifier.parameters()),
        forward_gflop=operations / BATCH / 1e9,
        activation_bytes=sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in weights)
        // BATCH,
        last_map=tuple(maps[0].shape[1:]),
    )
