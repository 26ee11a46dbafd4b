"""Padding made for large volumes: as it was where they are large enough, and "same" padding where they are not."""

import pytest
import torch
from torch import nn

from rlvo.models.padding import FittingPad3d
from rlvo.models.streamlining import PaddedConv

STATIC = {3: (0, 1), 5: (1, 2)}
"""By kernel: what an even number of voxels needs before and after, at a stride of 2."""


@pytest.mark.parametrize("kernel", STATIC)
@pytest.mark.parametrize("side", [1, 2, 3, 4, 9])
def test_a_volume_is_never_smaller_than_the_kernel(kernel: int, side: int) -> None:
    torch.manual_seed(0)
    padding = STATIC[kernel] * 3
    conv = nn.Conv3d(1, 2, kernel, stride=2).double()
    x = torch.randn(1, 1, side, 6, 7, dtype=torch.double)
    padded = FittingPad3d(padding, conv.kernel_size)(x)
    if side + sum(STATIC[kernel]) >= kernel:
        assert torch.equal(padded, nn.ConstantPad3d(padding, 0.0)(x))
    else:
        needed = max((-(-side // 2) - 1) * 2 + kernel - side, 0)  # "same" padding, half of it in front
        both = (*STATIC[kernel] * 2, needed // 2, needed - needed // 2)
        assert torch.equal(padded, nn.ConstantPad3d(both, 0.0)(x))
    expected = conv(padded)
    torch.testing.assert_close(PaddedConv(conv, padding)(x), expected)
