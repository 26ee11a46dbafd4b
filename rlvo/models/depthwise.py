"""Depthwise 3-D convolutions with a backward pass of their own.

Libraries compute the gradients of depthwise convolutions far more slowly than the convolution (oneDNN; cuDNN,
pytorch#37406): on a CPU they were two thirds of an EfficientNet's training step. Both gradients are convolutions
themselves: that of the input is the output's gradient with the mirrored kernel; that of the kernel is the input with
the output's gradient as its kernel. They differ from the library's by rounding. With strides the library is as fast.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv3d, pad

Triple = tuple[int, int, int]
Sizes = Sequence[int]
"""Of the three axes."""


class DepthwiseConv3d(nn.Conv3d):
    """A convolution of each channel by itself, with the weights of `conv`.

    Args:
        conv: a depthwise convolution: as many groups as channels, zero padding, without dilation.
        padding: voxels of zeros at both ends of each axis.
    """

    padding: Triple

    def __init__(self, conv: nn.Conv3d, padding: Triple) -> None:
        kernel, stride = cast(tuple[Triple, Triple], (conv.kernel_size, conv.stride))
        channels, with_bias = conv.out_channels, conv.bias is not None
        meta = torch.device("meta")  # draws no random numbers
        super().__init__(channels, channels, kernel, stride, padding, groups=channels, bias=with_bias, device=meta)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        way = FASTEST.get(x.device.type)
        if way is None or max(self.stride) > 1 or not torch.is_grad_enabled():
            return super().forward(x)
        weight = self.weight
        if torch.is_autocast_enabled(x.device.type):
            narrow = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(narrow), weight.to(narrow)
        convolved: Tensor = _Depthwise.apply(x, weight, self.padding, way)  # type: ignore[no-untyped-call]
        return convolved if self.bias is None else convolved + self.bias[:, None, None, None]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: Sizes, way: "KernelGradient") -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.way = padding, way
        return conv3d(x, weight, padding=padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        of_input = of_kernel = None
        if ctx.needs_input_grad[0]:
            of_input = _input_gradient(weight, gradient, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_kernel = ctx.way(x, weight.shape[2:], gradient, ctx.padding)
        return of_input, of_kernel, None, None


def _input_gradient(weight: Tensor, gradient: Tensor, padding: Sizes) -> Tensor:
    kernel = weight.shape[2:]
    around = [k - 1 - p for k, p in zip(kernel, padding, strict=True)]
    return conv3d(gradient, weight.flip(2, 3, 4), padding=around, groups=len(weight))


SLAB = 4096
"""Voxels of the output's gradient that one convolution adds up: with more, single precision's sums lose digits and
oneDNN's copies take memory."""

KernelGradient = Callable[[Tensor, Sizes, Tensor, Sizes], Tensor]
"""Input [B, C, X, Y, Z], the kernel's shape, the output's gradient, padding → the kernel's [C, 1, k, k, k]."""


def kernel_gradient_by_convolution(x: Tensor, kernel: Sizes, gradient: Tensor, padding: Sizes) -> Tensor:
    """Convolutions of each patient's channels with the output's gradient as their kernel, slab by slab along x."""
    rows = x.shape[0] * x.shape[1]
    inputs = pad(x, (0, 0, 0, 0, padding[0], padding[0])).reshape(1, rows, -1, *x.shape[3:])
    slabs = torch.split(
        gradient.reshape(rows, 1, *gradient.shape[2:]), max(1, SLAB // gradient[0, 0, 0].numel()), dim=2
    )
    found, first = x.new_zeros(rows, *kernel), 0
    for slab in slabs:
        part = inputs[:, :, first : first + slab.shape[2] - 1 + kernel[0]]
        found += conv3d(part, slab, padding=(0, *padding[1:]), groups=rows)[0]
        first += slab.shape[2]
    return found.reshape(*x.shape[:2], 1, *kernel).sum(dim=0)


def kernel_gradient_by_taps(x: Tensor, kernel: Sizes, gradient: Tensor, padding: Sizes) -> Tensor:
    """One product of the shifted input with the output's gradient per voxel of the kernel."""
    x = pad(x, [p for p in reversed(padding) for _ in range(2)])
    taps = []
    for first in itertools.product(*map(range, kernel)):
        at = [slice(i, i + n) for i, n in zip(first, gradient.shape[2:], strict=True)]
        taps.append((x[:, :, *at] * gradient).sum(dim=(0, 2, 3, 4)))
    return torch.stack(taps, dim=1).reshape(-1, 1, *kernel)


FASTEST: dict[str, KernelGradient] = {"cpu": kernel_gradient_by_convolution}
"""By kind of device; on the others the library's own backward pass (`python -m benchmarks efficientnet`)."""
