"""Training in less memory: of each block only the input is kept, and its maps are computed again when they are needed.

Chen et al. 2016, "Training deep nets with sublinear memory cost". It takes one more forward pass, about a third more
time, and changes no number: dropout draws the same, and running statistics are updated once.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


class Recomputing(nn.Sequential):
    """The layers of a network, under the same names; in training their maps are computed again, block by block."""

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__(OrderedDict(network.named_children()))

    def forward(self, x: Tensor) -> Tensor:
        again = self.training and torch.is_grad_enabled()
        for block in blocks(self):
            x = _recomputed(block, x) if again else _run(block, x)
        return x


def blocks(network: nn.Sequential) -> list[list[nn.Module]]:
    """A network's layers in order, in the groups between which maps are kept.

    A group is a block (a dense layer, an inverted bottleneck, a residual block), or all single layers in a row (the
    stem, a transition).
    """
    whole = groupby(_layers(network), key=lambda layer: any(True for _ in layer.children()))
    return [
        group for is_block, layers in whole for group in ([[layer] for layer in layers] if is_block else [list(layers)])
    ]


def _layers(network: nn.Module) -> Iterator[nn.Module]:
    """The modules that an `nn.Sequential` calls one after another; those of Sequentials within it, too."""
    for layer in network.children():
        if type(layer).forward is nn.Sequential.forward:
            yield from _layers(layer)
        else:
            yield layer


def _recomputed(block: Sequence[nn.Module], x: Tensor) -> Tensor:
    computed: Tensor = checkpoint(
        _run, block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(block))
    )
    return computed


def _run(block: Sequence[nn.Module], x: Tensor) -> Tensor:
    for layer in block:
        x = layer(x)
    return x


@contextmanager
def _statistics_kept(block: Sequence[nn.Module]) -> Iterator[None]:
    """Leave the running statistics of normalisations as they are, which the first pass has updated."""
    norms = [each for layer in block for each in layer.modules() if isinstance(each, _NormBase)]
    before = [(each.momentum, each.num_batches_tracked) for each in norms]
    for each in norms:
        each.momentum, each.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for each, (momentum, counted) in zip(norms, before, strict=True):
            each.momentum, each.num_batches_tracked = momentum, counted
