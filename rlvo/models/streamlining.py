"""Rewrites a classifier's image network for prediction: the same function in fewer passes over its feature maps."""

from typing import TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from rlvo.models.classifier import Classifier
from rlvo.models.padding import widen

First = TypeVar("First", bound=nn.Module)
Second = TypeVar("Second", bound=nn.Module)


def streamline(classifier: Classifier) -> Classifier:
    """Fold batch norms and zero padding into the adjacent convolutions, in place; for evaluation only.

    Logits change by rounding only. Networks with depthwise convolutions (EfficientNet) are several times faster on a
    CPU in channels-last layout and get it; the others would be slower.
    """
    network = classifier.backbone.features.eval()
    traced = fx.GraphModule(network, LayerTracer().trace(network))
    _fold_batch_norm(traced)
    _fold_padding(traced)
    traced.delete_all_unused_submodules()
    traced.recompile()
    convolutions = [layer for layer in traced.modules() if isinstance(layer, nn.Conv3d)]
    if any(conv.groups > 1 for conv in convolutions):
        for conv in convolutions:
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last_3d)
    classifier.backbone.features = nn.Sequential(traced)
    return classifier


class LayerTracer(fx.Tracer):
    """Treats every layer without sublayers as one step, MONAI's own layers too, and `PaddedConv`."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, PaddedConv) or not any(True for _ in m.children())


def _fold_batch_norm(traced: fx.GraphModule) -> None:
    for (before, conv), (after, norm) in _neighbours(traced, nn.Conv3d, nn.BatchNorm3d):
        traced.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))
        after.replace_all_uses_with(before)
        traced.graph.erase_node(after)


def _fold_padding(traced: fx.GraphModule) -> None:
    for (before, pad), (after, conv) in _neighbours(traced, nn.ConstantPad3d, nn.Conv3d):
        traced.set_submodule(str(after.target), PaddedConv(conv, pad.padding))
        before.replace_all_uses_with(before.all_input_nodes[0])
        traced.graph.erase_node(before)


def _neighbours(
    traced: fx.GraphModule, first: type[First], second: type[Second]
) -> list[tuple[tuple[fx.Node, First], tuple[fx.Node, Second]]]:
    """Pairs of a layer of the first kind and the layer of the second kind that alone takes its output."""
    layers = {node: traced.get_submodule(str(node.target)) for node in traced.graph.find_nodes(op="call_module")}
    pairs = [(node, user) for node in layers for user in node.users if len(node.users) == 1]
    return [
        ((node, layer), (user, following))
        for node, user in pairs
        if isinstance(layer := layers[node], first) and isinstance(following := layers.get(user), second)
    ]


class PaddedConv(nn.Module):
    """A convolution after zero padding, without a padded copy of its input.

    Uneven padding is made even by whole strides of extra padding in front; the surplus outputs are cut off.

    Args:
        conv: the convolution, without padding of its own.
        padding: as in `nn.ConstantPad3d`: before and after, last axis first.
    """

    def __init__(self, conv: nn.Conv3d, padding: tuple[int, ...]) -> None:
        super().__init__()
        before, after = padding[4::-2], padding[5::-2]
        self.cut = [max(0, -(-(b - a) // s)) for a, b, s in zip(before, after, conv.stride, strict=True)]
        self.before = before
        self.added = [a + b for a, b in zip(before, after, strict=True)]
        self.conv = conv
        conv.padding = tuple(a + c * s for a, c, s in zip(before, self.cut, conv.stride, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.conv.kernel_size, self.conv.stride
        x = widen(x, self.added, kernel)
        sides = [(x.shape[2 + i] + self.added[i] - kernel[i]) // stride[i] + 1 for i in range(3)]
        convolved: Tensor = self.conv(x)
        return convolved[:, :, *(slice(cut, cut + side) for cut, side in zip(self.cut, sides, strict=True))]
