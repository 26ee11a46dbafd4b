import numpy as np
import pytest
import torch

from rlvo.explain.attribution import contributions, tabular_gradients
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


def reference(daft: DAFT, features: torch.Tensor, table: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """∂S/∂T and ∂B/∂T [N, C, T] by finite differences, and P [N, C]."""
    pooled, step, columns = features.mean(dim=(2, 3, 4)), 1e-5, []
    for i in range(table.shape[1]):
        shift = torch.zeros_like(table)
        shift[:, i] = step
        pairs = (daft.scale_and_shift(pooled, table + sign * shift) for sign in (1, -1))
        columns.append([(high - low).detach() / (2 * step) for high, low in zip(*pairs, strict=True)])
    scale, shifts = (torch.stack([column[k] for column in columns], dim=2).numpy() for k in (0, 1))
    return scale, shifts, pooled.numpy()


GROUPS = {"age": (0,), "occlusion_site": (1, 2, 3), "nihss": (4, 5)}


def test_contributions_follow_the_formula_and_sum_the_features_of_a_predictor() -> None:
    torch.manual_seed(0)
    daft, features, table = DAFT(10, 6).double(), torch.randn(7, 10, 3, 2, 2).double(), torch.rand(7, 6).double()
    by_scale, by_shift, pooled = reference(daft, features, table)
    found = contributions(daft, features, table.numpy(), GROUPS)
    scale = (np.abs(by_scale) * np.abs(pooled)[:, :, None]).mean(axis=1)
    shift = np.abs(by_shift).mean(axis=1)
    expected = (scale + shift) @ [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    assert list(found.individual) == list(GROUPS)
    np.testing.assert_allclose(found.individual, expected, rtol=1e-6)
    np.testing.assert_allclose(found.absolute, expected.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.scale["age"], scale[:, 0], rtol=1e-6)


def test_the_literal_formula_takes_means_first() -> None:
    torch.manual_seed(0)
    daft, features, table = DAFT(10, 6).double(), torch.randn(7, 10, 3, 2, 2).double(), torch.rand(7, 6).double()
    by_scale, by_shift, pooled = reference(daft, features, table)
    means = np.abs(by_scale.mean(axis=(0, 1))) * pooled.mean() + np.abs(by_shift.mean(axis=(0, 1)))
    literal = contributions(daft, features, table.numpy(), GROUPS, formula="literal").absolute
    np.testing.assert_allclose(literal, [means[0], means[1:4].sum(), means[4:].sum()], rtol=1e-6)
