"""EfficientNet-B0's depthwise convolutions: the library's backward pass against ours, layer by layer and as a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measure import default_device, seconds, show
from rlvo.config.model import ModelConfig
from rlvo.models import depthwise
from rlvo.models.backbones import Backbone, build_backbone
from rlvo.models.depthwise import DepthwiseConv3d

WAYS = {"library": False, "ours": True}
CASES = (((64, 80, 64), 1), ((40, 48, 40), 4))


def benchmark_efficientnet(*, short: bool = False) -> None:
    """Print milliseconds of each way for each layer that differs, and of a whole step."""
    cases, repeat = ((((32, 32, 32), 2),), 1) if short else (CASES, 3)
    device = default_device()
    for shape, batch in cases:
        torch.manual_seed(0)
        backbone = build_backbone(ModelConfig(backbone="efficientnet-b0")).to(device).train()
        volume = torch.randn(batch, backbone.features.stem.in_channels, *shape, device=device)
        rows = {name: _milliseconds(device, layer, given, repeat) for name, (layer, given) in _layers(backbone, volume)}
        rows["whole step"] = _milliseconds(device, backbone, volume, repeat)
        rows = {name: (*taken, taken[0] / taken[1]) for name, taken in rows.items()}
        where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        title = f"forward and backward, ms: {'×'.join(map(str, shape))}, batch {batch}, {where}"
        columns = (*WAYS, "library / ours")
        show(title, columns, rows, ratio=columns[-1])


def _layers(backbone: Backbone, volume: Tensor) -> Iterator[tuple[str, tuple[DepthwiseConv3d, Tensor]]]:
    """Each depthwise convolution that differs, with what it is given."""
    found: dict[str, tuple[DepthwiseConv3d, Tensor]] = {}

    def note(layer: DepthwiseConv3d, given: tuple[Tensor], _: Tensor) -> None:
        sizes = "×".join(map(str, given[0].shape[1:]))
        found.setdefault(f"{sizes}, kernel {layer.kernel_size[0]}, stride {layer.stride[0]}", (layer, given[0]))

    hooks = [each.register_forward_hook(note) for each in backbone.modules() if isinstance(each, DepthwiseConv3d)]
    with torch.no_grad():
        backbone(volume)
    for hook in hooks:
        hook.remove()
    yield from found.items()


def _milliseconds(device: torch.device, layer: nn.Module, given: Tensor, repeat: int) -> tuple[float, ...]:
    given = given.detach().requires_grad_()
    return tuple(1000 * seconds(partial(_step, device, layer, given, way), repeat) for way in WAYS.values())


def _step(device: torch.device, layer: nn.Module, given: Tensor, ours: bool) -> None:
    with _computing(device, ours=ours):
        layer(given).sum().backward()


@contextmanager
def _computing(device: torch.device, *, ours: bool) -> Iterator[None]:
    before = set(depthwise.DEVICES)
    (depthwise.DEVICES.add if ours else depthwise.DEVICES.discard)(device.type)
    try:
        yield
    finally:
        depthwise.DEVICES.clear()
        depthwise.DEVICES.update(before)
