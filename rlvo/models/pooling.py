"""3-D pooling with a backward pass that always adds up in the same order.

CUDA's adds the windows' gradients up in whatever order they arrive, so runs with the same seed differ in the last
digits, and `torch.use_deterministic_algorithms` refuses it. Outputs are the library's own; gradients differ from its by
rounding.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import avg_pool3d, max_pool3d, pad

Triple = tuple[int, int, int]


def make_pooling_deterministic(network: nn.Module) -> None:
    """Replace max and average pooling in a network, in place. Neither has weights, so names stay."""
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.MaxPool3d):
            network.set_submodule(name, DeterministicMaxPool3d(layer.kernel_size, layer.stride, layer.padding))
        elif isinstance(layer, nn.AvgPool3d):
            network.set_submodule(name, DeterministicAvgPool3d(layer.kernel_size, layer.stride))


class DeterministicMaxPool3d(nn.MaxPool3d):
    """The maximum of each window; its gradient goes to the first voxel that holds it."""

    def forward(self, x: Tensor) -> Tensor:
        sizes = map(_triple, (self.kernel_size, self.stride, self.padding))
        pooled: Tensor = _MaxPool.apply(x, *sizes)  # type: ignore[no-untyped-call]
        return pooled


class DeterministicAvgPool3d(nn.AvgPool3d):
    """The mean of each window, without padding."""

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = _AvgPool.apply(x, _triple(self.kernel_size), _triple(self.stride))  # type: ignore[no-untyped-call]
        return pooled


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Triple, stride: Triple, padding: Triple) -> Tensor:
        pooled, index = max_pool3d(x, kernel, stride, padding, return_indices=True)
        place = torch.zeros(pooled.shape, dtype=torch.int32, device=x.device)
        below = x[0, 0].numel()
        for axis in range(3):  # where in its window each maximum is, counted like the kernel's voxels
            below //= x.shape[2 + axis]
            first = torch.arange(pooled.shape[2 + axis], device=x.device) * stride[axis] - padding[axis]
            within = (index // below) % x.shape[2 + axis] - first.view([-1 if i == axis else 1 for i in range(3)])
            place = place * kernel[axis] + within.int()
        ctx.save_for_backward(place.to(torch.int16))
        ctx.sizes = x.shape[2:], kernel, stride, padding
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (place,), (sides, kernel, stride, padding) = ctx.saved_tensors, ctx.sizes
        padded = [side + 2 * p for side, p in zip(sides, padding, strict=True)]
        of_input = gradient.new_zeros(*gradient.shape[:2], *padded)
        for number, windows in enumerate(_each_voxel(kernel, stride, gradient.shape[2:])):
            of_input[:, :, *windows] += gradient * (place == number)
        return pad(of_input, [-p for p in reversed(padding) for _ in range(2)]), None, None, None


class _AvgPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
        ctx.sizes = x.shape, kernel, stride
        return avg_pool3d(x, kernel, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        shape, kernel, stride = ctx.sizes
        of_input, share = gradient.new_zeros(shape), gradient / (kernel[0] * kernel[1] * kernel[2])
        for windows in _each_voxel(kernel, stride, gradient.shape[2:]):
            of_input[:, :, *windows] += share
        return of_input, None, None


def _each_voxel(kernel: Triple, stride: Triple, windows: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """For each voxel of a window, where all windows have it in the (padded) map."""
    for first in itertools.product(*map(range, kernel)):
        yield tuple(slice(i, i + s * (n - 1) + 1, s) for i, s, n in zip(first, stride, windows, strict=True))


def _triple(size: int | tuple[int, ...]) -> Triple:
    return (size, size, size) if isinstance(size, int) else cast(Triple, tuple(size))
