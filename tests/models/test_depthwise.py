"""Depthwise convolutions: torch's own figures and gradients, computed in another way."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlvo.config.model import ModelConfig
from rlvo.models import depthwise
from rlvo.models.backbones import build_backbone
from rlvo.models.depthwise import DepthwiseConv3d

Triple = tuple[int, int, int]


def both(kernel: Triple, stride: Triple, padding: Triple, *, bias: bool = False) -> tuple[nn.Conv3d, DepthwiseConv3d]:
    """Torch's convolution of 6 channels with its own padding, and ours with the same weights."""
    torch.manual_seed(0)
    conv = nn.Conv3d(6, 6, kernel, stride=stride, padding=padding, groups=6, bias=bias).double()
    return conv, DepthwiseConv3d(conv, padding)


def gradients(conv: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    x = x.clone().requires_grad_()
    y = conv(x)
    gradient = np.random.default_rng(0).normal(size=y.shape)
    return (y, *torch.autograd.grad(y, [x, *conv.parameters()], torch.from_numpy(gradient).to(y)))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [
        ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
        ((5, 5, 5), (1, 1, 1), (2, 2, 2)),
        ((3, 3, 3), (2, 2, 2), (0, 0, 0)),
        ((3, 3, 3), (2, 2, 2), (2, 2, 2)),
        ((5, 5, 5), (2, 2, 2), (3, 3, 3)),
        ((3, 5, 1), (1, 1, 1), (0, 2, 0)),
    ],
)
@pytest.mark.parametrize("shape", [(1, 6, 9, 8, 7), (3, 6, 6, 11, 5)])
def test_output_and_gradients_are_torchs(
    kernel: Triple, stride: Triple, padding: Triple, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depthwise, "SLAB", 20)  # several slabs, the last one thinner
    x = torch.randn(shape, dtype=torch.float64)
    for ours, torchs in zip(*(gradients(conv, x) for conv in both(kernel, stride, padding, bias=True)), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-10, atol=1e-10)


def test_single_precision_loses_little_where_many_voxels_are_added_up() -> None:
    exact, conv = both((3, 3, 3), (1, 1, 1), (1, 1, 1))
    x = 1 + torch.randn(1, 6, 40, 40, 40, dtype=torch.float64)  # a mean, so that sums grow
    expected = gradients(exact, x)[2]
    found = gradients(conv.float(), x.float())[2]  # turns the weights that both have
    assert (found - expected).norm() < 3e-6 * expected.norm()


def test_autocast_narrows_the_convolution_and_not_the_gradients_of_the_weights() -> None:
    _, conv = both((3, 3, 3), (1, 1, 1), (1, 1, 1))
    x, conv = torch.randn(2, 6, 8, 8, 8), conv.float()
    _, of_input, of_kernel = gradients(conv, x)
    with torch.autocast("cpu", torch.bfloat16):
        y, narrow_input, narrow_kernel = gradients(conv, x)
    assert y.dtype == torch.bfloat16
    assert narrow_input.dtype == narrow_kernel.dtype == torch.float32
    assert (narrow_kernel - of_kernel).norm() < 0.02 * of_kernel.norm()
    assert (narrow_input - of_input).norm() < 0.02 * of_input.norm()


def test_only_what_is_needed_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    unasked = "no gradient of the kernel was asked for"
    monkeypatch.setattr(depthwise, "kernel_gradient", lambda *given: pytest.fail(unasked))
    _, conv = both((3, 3, 3), (1, 1, 1), (1, 1, 1))
    conv.requires_grad_(False)
    x = torch.randn(1, 6, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        assert not conv(x).requires_grad


def test_it_takes_the_weights_and_draws_no_random_numbers() -> None:
    conv = nn.Conv3d(4, 4, 3, groups=4, bias=False)
    state = torch.get_rng_state()
    ours = DepthwiseConv3d(conv, (1, 1, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert ours.weight is conv.weight
    assert list(ours.state_dict()) == ["weight"]


def test_an_efficientnet_trains_as_with_torchs_own_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(ModelConfig(backbone="efficientnet-b0", efficientnet={"width": 0.3, "depth": 0.3}))
    volume = torch.randn(2, backbone.features[1].in_channels, 20, 24, 17)
    assert sum(isinstance(layer, DepthwiseConv3d) for layer in backbone.modules()) == sum(
        map(len, backbone.features.blocks)
    )

    def trained() -> tuple[Tensor, Tensor]:
        torch.manual_seed(1)
        backbone.zero_grad()
        features = backbone(volume)
        features.square().mean().backward()
        return features, torch.cat([weight.grad.flatten() for weight in backbone.parameters()])

    features, gradient = trained()
    monkeypatch.setattr(depthwise, "DEVICES", set())
    torchs, expected = trained()
    assert torch.equal(features, torchs)
    assert 0 < (gradient - expected).norm() < 1e-4 * expected.norm()
