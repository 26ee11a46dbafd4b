"""Zero padding made for one size of volume that fits smaller ones too."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import pad


class FittingPad3d(nn.ConstantPad3d):
    """Zero padding before a convolution, and more of it if the volume would otherwise be smaller than the kernel.

    MONAI's EfficientNet computes its padding for 224 voxels per axis. On a small grid a map can shrink to fewer voxels
    than the kernel has; what is added then makes the padding what it would be for that size ("same").

    Args:
        padding: as in `nn.ConstantPad3d`: before and after, last axis first.
        kernel: size of the kernel, first axis first.
    """

    def __init__(self, padding: tuple[int, int, int, int, int, int], kernel: Sequence[int]) -> None:
        super().__init__(padding, 0.0)
        self.kernel = tuple(kernel)

    @property
    def is_even_and_enough(self) -> bool:
        """Whether both ends of each axis get the same, and no volume is too small with it."""
        ends = zip(self.padding[4::-2], self.padding[5::-2], self.kernel, strict=True)
        return all(before == after and before + after >= k - 1 for before, after, k in ends)

    def forward(self, x: Tensor) -> Tensor:
        added = [before + after for before, after in zip(self.padding[4::-2], self.padding[5::-2], strict=True)]
        padded: Tensor = super().forward(widen(x, added, self.kernel))
        return padded


def widen(x: Tensor, added: Sequence[int], kernel: Sequence[int]) -> Tensor:
    """Volume [B, C, X, Y, Z] with zeros in front of every axis that `added` voxels leave smaller than the kernel."""
    missing = lacking(x.shape[2:], added, kernel)
    return pad(x, [voxels for axis in reversed(missing) for voxels in (axis, 0)]) if any(missing) else x


def lacking(shape: Sequence[int], added: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """Voxels that each axis of `shape` lacks to be as large as the kernel with `added` voxels."""
    return [max(0, k - a - side) for k, a, side in zip(kernel, added, shape, strict=True)]
