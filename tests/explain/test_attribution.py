import pytest
import torch

from rlvo.explain.attribution import tabular_gradients
from rlvo.models.fusion import DAFT, FiLM, ScaleActivation


@pytest.mark.parametrize("activation", ["linear", "sigmoid", "tanh"])
@pytest.mark.parametrize("kind", [DAFT, FiLM])
def test_gradients_equal_finite_differences(kind: type[DAFT], activation: ScaleActivation) -> None:
    torch.manual_seed(0)
    daft = kind(10, 6, scale_activation=activation).double()
    features, tabular = torch.randn(3, 10, 3, 2, 2).double(), torch.rand(3, 6).double()
    pooled, step = features.mean(dim=(2, 3, 4)), 1e-5
    gradients = tabular_gradients(daft, features, tabular)
    for i in range(6):
        above, below = tabular.clone(), tabular.clone()
        above[:, i] += step
        below[:, i] -= step
        for gradient, high, low in zip(
            gradients, daft.scale_and_shift(pooled, above), daft.scale_and_shift(pooled, below), strict=True
        ):
            assert gradient.shape == (3, 10, 6)
            torch.testing.assert_close(gradient[:, :, i], (high - low) / (2 * step), rtol=0, atol=1e-6)


def test_an_omitted_shift_has_no_gradient() -> None:
    torch.manual_seed(0)
    daft = DAFT(10, 6, shift=False)
    scale, shift = tabular_gradients(daft, torch.randn(2, 10, 2, 2, 2), torch.rand(2, 6))
    assert scale.abs().sum() > 0
    assert (shift == 0).all()
    assert not scale.requires_grad
