"""Pooling that can be repeated: the library's outputs and gradients, computed in another order."""

import pytest
import torch
from torch import Tensor, nn

from rlvo.models.pooling import make_pooling_deterministic

MAX = nn.MaxPool3d(3, stride=2, padding=1)
POOLS = [MAX, nn.MaxPool3d((3, 2, 1), stride=(1, 2, 3), padding=(1, 0, 0)), nn.AvgPool3d(2, 2), nn.AvgPool3d(3, 2)]


def replaced(pool: nn.Module) -> nn.Module:
    network = nn.Sequential(pool)
    make_pooling_deterministic(network)
    assert network[0] is not pool
    return network


def pooled_with_gradient(pool: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = pool(x)
    weights = torch.rand(y.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return y.detach(), torch.autograd.grad(y, x, weights)[0]


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 9, 8, 7), (1, 2, 3, 4, 3)])
def test_outputs_and_gradients_are_the_librarys(pool: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    (ours, our_gradient), (theirs, their_gradient) = (pooled_with_gradient(each, x) for each in (replaced(pool), pool))
    assert torch.equal(ours, theirs)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-12, atol=1e-12)


def test_of_equal_voxels_the_first_gets_the_gradient() -> None:
    """After a ReLU most windows hold several zeros, and bfloat16 makes other values equal too."""
    x = torch.randint(0, 3, (2, 2, 7, 8, 9)).double()
    gradients = [pooled_with_gradient(each, x)[1] for each in (replaced(MAX), MAX)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
