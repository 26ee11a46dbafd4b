"""Where the voxels of a network's last feature map lie in its input, and the way back from there.

Interpolating a map "to the input's size" shifts it: a convolution of stride 2 with padding sees its first voxel centred
on the input's first, pooling without padding half a voxel further, and a deep network adds up to half its stride (15
voxels in a ResNet). So the centre of every feature voxel's receptive field is followed through the layers instead.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from rlvo.models.padding import FittingPad3d, lacking
from rlvo.models.streamlining import LayerTracer, PaddedConv

Shape = tuple[int, ...]


class Placement(NamedTuple):
    """Feature voxel i of an axis is centred on input voxel first + i·step; three axes, in input voxels."""

    first: tuple[float, ...]
    step: tuple[float, ...]


IDENTITY = Placement((0.0,) * 3, (1.0,) * 3)
_KNOWN: WeakKeyDictionary[nn.Module, dict[Shape, Placement]] = WeakKeyDictionary()


def place_features(network: nn.Module, channels: int, shape: Shape) -> Placement:
    """Where the output voxels of a network lie in its input [B, channels, *shape]; nothing is computed (meta device).

    A layer of unknown kind that changes the shape is taken to divide its input evenly (`align_corners=False`).
    """
    known = _KNOWN.setdefault(network, {})
    if shape not in known:
        imitation = copy.deepcopy(nn.Sequential(network)).to("meta").eval()
        traced = fx.GraphModule(imitation, LayerTracer().trace(imitation))
        placing = _Placing(traced)
        with torch.no_grad():
            placing.run(torch.empty(1, channels, *shape, device="meta"))
        known[shape] = placing.result
    return known[shape]


def upsample(maps: Tensor, placement: Placement, shape: Shape) -> Tensor:
    """Maps [B, x, y, z] at the places of their voxels → [B, *shape]: trilinear, and constant beyond the outermost.

    Where features divide the input evenly this is `interpolate(mode="trilinear", align_corners=False)`.
    """
    weights = [
        _linear_weights(side, voxels, first, step).to(maps)
        for side, voxels, first, step in zip(maps.shape[1:], shape, *placement, strict=True)
    ]
    return torch.einsum("bxyz,Xx,Yy,Zz->bXYZ", maps, *weights)


def _linear_weights(side: int, voxels: int, first: float, step: float) -> Tensor:
    """[voxels, side]: how much each of the map's `side` voxels counts at each of the input's voxels."""
    at = ((torch.arange(voxels, dtype=torch.float64) - first) / step).clamp(0, side - 1)
    return (1 - (at[:, None] - torch.arange(side, dtype=torch.float64)).abs()).clamp(min=0)


class _Placing(fx.Interpreter):
    """Runs a traced network and follows the placement of every intermediate map; `result` is the last one."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self._places: dict[fx.Node, Placement | None] = {}

    @property
    def result(self) -> Placement:
        place = [*self._places.values()][-1]
        assert place is not None
        return place

    def run_node(self, n: fx.Node) -> Any:
        given = next((self._places[node] for node in n.all_input_nodes if self._places.get(node)), None)
        result = super().run_node(n)
        if n.op == "placeholder":
            self._places[n] = IDENTITY
        elif given is None or not isinstance(result, Tensor) or result.dim() != 5:
            self._places[n] = given if n.op == "output" else None
        else:
            source = next(node for node in n.all_input_nodes if self._places.get(node))
            layer = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
            self._places[n] = _after(layer, given, tuple(self.env[source].shape[2:]), tuple(result.shape[2:]))
        return result


def _after(layer: nn.Module | None, given: Placement, before: Shape, after: Shape) -> Placement | None:
    """Placement of a layer's output of size `after`, given that of its input of size `before`.

    None if the output says nothing about places: it was pooled to one voxel (the gates of squeeze and excitation).
    """
    if isinstance(layer, nn.AdaptiveAvgPool3d):
        return None
    axes = zip(given.first, given.step, *_window(layer, before, after), strict=True)
    moved = [(f + ((kernel - 1) / 2 - front) * step, step * stride) for f, step, kernel, stride, front in axes]
    return Placement(*zip(*moved, strict=True))


def _window(layer: nn.Module | None, before: Shape, after: Shape) -> tuple[Sequence[float], ...]:
    """Kernel, stride and padding in front of a layer, along each axis, in voxels of its input."""
    match layer:
        case PaddedConv():
            kernel, missing = layer.conv.kernel_size, lacking(before, layer.added, layer.conv.kernel_size)
            return kernel, layer.conv.stride, [p + m for p, m in zip(layer.before, missing, strict=True)]
        case nn.Conv3d():
            kernel = tuple((k - 1) * d + 1 for k, d in zip(layer.kernel_size, layer.dilation, strict=True))
            return kernel, layer.stride, [int(padding) for padding in layer.padding]
        case nn.MaxPool3d() | nn.AvgPool3d():
            return _triple(layer.kernel_size), _triple(layer.stride), _triple(layer.padding)
        case FittingPad3d():
            front, back = layer.padding[4::-2], layer.padding[5::-2]
            missing = lacking(before, [f + b for f, b in zip(front, back, strict=True)], layer.kernel)
            return (1,) * 3, (1,) * 3, [f + m for f, m in zip(front, missing, strict=True)]
        case nn.ConstantPad3d():
            return (1,) * 3, (1,) * 3, layer.padding[4::-2]
        case _:
            ratio = [b / a for b, a in zip(before, after, strict=True)]
            return ratio, ratio, (0,) * 3


def _triple(value: int | Sequence[int]) -> Sequence[int]:
    return (value,) * 3 if isinstance(value, int) else value
