"""The cost of a model, computed without running it (meta device)."""

from collections import ChainMap
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from rlvo.config.model import ModelConfig
from rlvo.models.classifier import Classifier
from rlvo.models.recomputing import blocks

_Tensors = dict[int, Tensor]
"""By their storage; held, so that no other gets its place."""
BATCH = 2
"""Size of the measured batch: batch norm refuses a single volume if the last map is one voxel."""


@dataclass(frozen=True)
class ModelCost:
    """The cost of one volume.

    Attributes:
        parameters: number of trainable weights.
        forward_gflop: 1e9 floating-point operations of a forward pass (a multiplication and an addition count as two).
        activation_bytes: memory that a forward pass in fp32 keeps for the backward pass, without the weights.
        recomputed_bytes: the same at its highest if blocks are computed again (`models.recomputing`): what is kept
            between blocks, and all of the largest one.
        last_map: channels and voxels of the last feature map.
    """

    parameters: int
    forward_gflop: float
    activation_bytes: int
    recomputed_bytes: int
    last_map: tuple[int, ...]


@cache
def count_weights(config: ModelConfig, tabular_features: int = 20) -> int:
    """The number of trainable weights of a model spec."""
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in Classifier(config, tabular_features).parameters())


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
    kept = _Kept(classifier.backbone.features, weights)

    maps: list[Tensor] = []
    operations = 0

    def count(layer: nn.Conv3d | nn.Linear, given: object, output: Tensor) -> None:
        nonlocal operations
        operations += 2 * layer.weight.numel() * output.numel() // output.shape[1]  # each weight at each place

    classifier.backbone.features.register_forward_hook(lambda *call: maps.append(call[-1]))
    for layer in classifier.modules():
        if isinstance(layer, nn.Conv3d | nn.Linear):
            layer.register_forward_hook(count)
    with saved_tensors_hooks(kept.keep, lambda tensor: tensor):
        classifier(volume, tabular)
    return ModelCost(
        parameters=sum(tensor.numel() for tensor in classifier.parameters()),
        forward_gflop=operations / BATCH / 1e9,
        activation_bytes=kept.bytes // BATCH,
        recomputed_bytes=kept.recomputed_bytes // BATCH,
        last_map=tuple(maps[0].shape[1:]),
    )


class _Kept:
    """The tensors that a forward pass keeps, by the block of the image network that keeps them.

    Args:
        network: the image network.
        weights: storages that do not count.
    """

    def __init__(self, network: nn.Sequential, weights: Collection[int]) -> None:
        self._weights = weights
        self._outside, self._given = _Tensors(), _Tensors()
        """What is kept outside of all blocks; what blocks are given."""
        self._inside: list[_Tensors] = []
        self._now = self._outside
        for block in blocks(network):
            self._inside.append(tensors := _Tensors())
            block[0].register_forward_pre_hook(partial(self._enter, tensors))
            block[-1].register_forward_hook(self._leave)

    def keep(self, tensor: Tensor) -> Tensor:
        """A hook for `saved_tensors_hooks`."""
        if (storage := tensor.untyped_storage())._cdata not in self._weights:
            self._now[storage._cdata] = tensor
        return tensor

    @property
    def bytes(self) -> int:
        """All that is kept."""
        return _bytes(ChainMap(self._outside, *self._inside))

    @property
    def recomputed_bytes(self) -> int:
        """What is kept if blocks are computed again: at most, while the largest of them is."""
        between = {**self._outside, **self._given}
        return _bytes(between) + max(
            _bytes({key: each for key, each in block.items() if key not in between}) for block in self._inside
        )

    def _enter(self, block: _Tensors, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._given[given[0].untyped_storage()._cdata] = given[0]
        self._now = block

    def _leave(self, *call: object) -> None:
        self._now = self._outside


def _bytes(tensors: Mapping[int, Tensor]) -> int:
    return sum(each.untyped_storage().nbytes() for each in tensors.values())
