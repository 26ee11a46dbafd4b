"""A network whose training steps run as code that torch compiled for it."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


class Compiled(nn.Sequential):
    """The layers of a network, under the same names; in training they run compiled, and else as they are.

    Each shape of a batch is compiled by itself. Random numbers are drawn as without compiling; results differ by
    rounding.

    Args:
        network: the layers.
        cuda_graphs: whether a GPU replays each pass as one launch.
    """

    def __init__(self, network: nn.Sequential, *, cuda_graphs: bool) -> None:
        super().__init__(OrderedDict(network.named_children()))
        torch.compiler.reset()  # what earlier trials of this process compiled would count towards a limit
        network.compile(dynamic=False, options={"fallback_random": True, "triton.cudagraphs": cuda_graphs})
        self._compiled = (network,)  # in a tuple, so that its weights have no second name

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return super().forward(x)  # type: ignore[no-any-return,no-untyped-call]
        computed: Tensor = self._compiled[0](x)
        return computed

    def train(self, mode: bool = True) -> "Compiled":
        """Also tell the network that is compiled."""
        self._compiled[0].train(mode)
        return super().train(mode)
