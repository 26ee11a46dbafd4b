import numpy as np
import pytest
import torch

from rlvo.models.fusion import DAFT, FiLM, ScaleActivation

Inputs = tuple[torch.Tensor, torch.Tensor]


def daft_in_numpy(daft: DAFT, features: np.ndarray, tabular: np.ndarray) -> np.ndarray:
    """Eq. 1–2 of the paper, literally, with linear scale."""
    w1, w2 = daft.squeeze.weight.detach().numpy(), daft.expand.weight.detach().numpy()
    pooled = features.mean(axis=(2, 3, 4))
    x = np.maximum(np.concatenate([pooled, tabular], axis=1) @ w1.T, 0)
    scale, shift = np.split(x @ w2.T, 2, axis=1)
    return features * scale[..., None, None, None] + shift[..., None, None, None]


@pytest.fixture
def inputs() -> Inputs:
    torch.manual_seed(0)
    return torch.randn(3, 12, 2, 3, 4, dtype=torch.float64), torch.rand(3, 9, dtype=torch.float64)


def test_daft_is_the_papers_equations(inputs: Inputs) -> None:
    daft = DAFT(12, 9).double()
    expected = daft_in_numpy(daft, *(part.numpy() for part in inputs))
    np.testing.assert_allclose(daft(*inputs).detach().numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "features", "ratio", "hidden"), [(1664, 21, 7, 240), (1280, 18, 7, 185), (2, 3, 7, 1)]
)
def test_bottleneck_width(channels: int, features: int, ratio: int, hidden: int) -> None:
    daft = DAFT(channels, features, bottleneck_ratio=ratio)
    assert daft.squeeze.weight.shape == (hidden, channels + features)
    assert daft.expand.weight.shape == (2 * channels, hidden)
    assert daft.squeeze.bias is None
    assert daft.expand.bias is None


def test_scale_activations_and_omitted_parts(inputs: Inputs) -> None:
    features, tabular = inputs
    pooled = features.mean(dim=(2, 3, 4))
    linear = DAFT(12, 9).double()
    for name, function in (("sigmoid", torch.sigmoid), ("tanh", torch.tanh)):
        other = DAFT(12, 9, scale_activation=name).double()
        other.load_state_dict(linear.state_dict())
        torch.testing.assert_close(
            other.scale_and_shift(pooled, tabular)[0], function(linear.scale_and_shift(pooled, tabular)[0])
        )
    only_scale = DAFT(12, 9, shift=False).double()
    assert only_scale.expand.out_features == 12
    assert (only_scale.scale_and_shift(pooled, tabular)[1] == 0).all()
    only_shift = DAFT(12, 9, scale=False).double()
    shifted = only_shift(features, tabular) - features
    torch.testing.assert_close(shifted, shifted[..., :1, :1, :1].expand_as(shifted))
    with pytest.raises(ValueError, match="does nothing"):
        DAFT(12, 9, scale=False, shift=False)


@pytest.mark.parametrize("activation", ["linear", "sigmoid", "tanh"])
@pytest.mark.parametrize("kind", [DAFT, FiLM])
def test_identity_init_starts_from_the_unchanged_map(
    inputs: Inputs, kind: type[DAFT], activation: ScaleActivation
) -> None:
    layer = kind(12, 9, scale_activation=activation, identity_init=True, bias=True).double()
    torch.testing.assert_close(layer(*inputs), inputs[0])


def test_film_sees_the_table_only(inputs: Inputs) -> None:
    features, tabular = inputs
    film = FiLM(12, 9).double()
    assert film.squeeze.in_features == 9
    here, there = (film.scale_and_shift(features.mean(dim=(2, 3, 4)) + offset, tabular) for offset in (0, 5))
    torch.testing.assert_close(here, there, rtol=0, atol=0)
    assert not torch.allclose(film(features, tabular), film(features, tabular.flip(0)))
