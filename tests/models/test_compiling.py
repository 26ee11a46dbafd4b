"""Compiled training steps: the same numbers up to rounding, the same names, and nothing compiled beside training."""

import copy

import pytest
import torch
from torch import Tensor, nn

from rlvo.models.compiling import Compiled


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Dropout(0.5))


def trained(layers: nn.Module) -> tuple[Tensor, Tensor]:
    """Losses of three steps and all weights after them."""
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    torch.manual_seed(1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = layers(torch.randn(2, 1, 6, 6, 6)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), nn.utils.parameters_to_vector(layers.parameters())


@pytest.mark.slow
def test_it_learns_the_same_under_the_same_names() -> None:
    plain, compiled = network(), Compiled(network(), cuda_graphs=False)
    (losses, weights), (same_losses, same_weights) = trained(plain), trained(compiled)
    torch.testing.assert_close(same_losses, losses, rtol=0, atol=1e-5)
    torch.testing.assert_close(same_weights, weights, rtol=0, atol=1e-5)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    again = network()
    again.load_state_dict(compiled.state_dict())
    volume = torch.randn(2, 1, 6, 6, 6)
    torch.testing.assert_close(compiled.eval()(volume), again.eval()(volume), rtol=0, atol=0)


def test_nothing_is_compiled_for_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = network()
    layers.eval()
    compiled = Compiled(copy.deepcopy(layers), cuda_graphs=False).eval()
    monkeypatch.setattr(compiled, "_compiled", (lambda given: pytest.fail("it ran compiled"),))
    volume = torch.randn(2, 1, 6, 6, 6)
    assert torch.equal(compiled(volume), layers(volume))
