"""Depthwise 3-D convolutions with a backward pass of their own.

Libraries compute the gradients of depthwise convolutions far more slowly than the convolution (oneDNN; cuDNN,
pytorch#37406): on a CPU they were two thirds of an EfficientNet's training step. Both gradients are convolutions
themselves: that of the input is the output's gradient with the mirrored kernel; that of the kernel is the input with
the output's gradient as its kernel. They differ from the library's by rounding. With strides the library is as fast.
"""

from collections.abc import Sequence
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
        if x.device.type not in DEVICES or max(self.stride) > 1 or not torch.is_grad_enabled():
            return super().forward(x)
        weight = self.weight
        if torch.is_autocast_enabled(x.device.type):
            narrow = torch.get_autocast_dtype(x.device.type)
            x, weight = x.to(narrow), weight.to(narrow)
        convolved: Tensor = _Depthwise.apply(x, weight, self.padding)  # type: ignore[no-untyped-call]
        return convolved if self.bias is None else convolved + self.bias[:, None, None, None]


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: Sizes) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return conv3d(x, weight, padding=padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_input = of_kernel = None
        if ctx.needs_input_grad[0]:
            of_input = _input_gradient(weight, gradient, ctx.padding)
        if ctx.needs_input_grad[1]:
            of_kernel = kernel_gradient(x, weight.shape[2:], gradient, ctx.padding)
        return of_input, of_kernel, None


def _input_gradient(weight: Tensor, gradient: Tensor, padding: Sizes) -> Tensor:
    kernel = weight.shape[2:]
    around = [k - 1 - p for k, p in zip(kernel, padding, strict=True)]
    return conv3d(gradient, weight.flip(2, 3, 4), padding=around, groups=len(weight))


SLAB = 4096
"""Voxels of the output's gradient that one convolution adds up: with more, single precision's sums lose digits and
oneDNN's copies take memory."""


def kernel_gradient(x: Tensor, kernel: Sizes, gradient: Tensor, padding: Sizes) -> Tensor:
    """Convolutions of each patient's channels with the output's gradient as their kernel, slab by slab along x.

    Args:
        x: what was convolved, [B, C, X, Y, Z].
        kernel: the kernel's shape.
        gradient: of the output.
        padding: as the convolution's.

    Returns:
        The kernel's gradient [C, 1, k, k, k].
    """
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


DEVICES = {"cpu"}
"""Kinds of device that compute so; others by the library's own backward pass (`python -m benchmarks efficientnet`)."""
