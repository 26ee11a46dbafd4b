"""The checks of maps: on networks whose map is right, is blind, or cannot be anything."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from support.networks import narrow
from torch import nn

from rlvo.explain.faithfulness import QUARTERS, STEPS, Curve, check_map, rank_correlation, shuffle_from_the_head
from rlvo.explain.gradcam import Maps, View, feature_maps
from rlvo.models.classifier import Classifier

SHAPE = (16, 16, 16)
SPOT = (slice(8, 12), slice(2, 6), slice(4, 8))


def patients(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise [N, 2, *SHAPE], and a bright spot at one place where the label [N] is 1."""
    label = torch.arange(count) % 2
    volumes = torch.randn(count, 2, *SHAPE)
    volumes[:, :, *SPOT] += 4.0 * label[:, None, None, None, None]
    return volumes, label.float()


@pytest.fixture(scope="module")
def view() -> View:
    """A network trained to see the spot, and a patient who has it."""
    torch.manual_seed(0)
    options = {"init_features": 8, "growth_rate": 4, "block_config": (2,), "stem_kernel": 3}
    classifier = Classifier(narrow("densenet121", fusion="daft", densenet=options, daft={"identity_init": True}), 2)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=0.01)
    for _ in range(40):
        volumes, label = patients(8)
        loss = nn.functional.binary_cross_entropy_with_logits(classifier(volumes, torch.rand(8, 2)), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    volumes, _ = patients(2)
    return View(classifier.eval(), volumes[1:], torch.rand(1, 2))


def test_a_trained_networks_map_passes_and_depends_on_its_weights(view: View) -> None:
    check = check_map([view])
    assert check.failures == ()
    assert list(check.similarity) == ["head", "fusion", *QUARTERS]
    assert check.similarity["all layers"] < 0.5
    assert check.deletion is not None
    assert check.insertion is not None
    assert check.deletion.area < np.mean(check.deletion.random)
    assert check.insertion.area > np.mean(check.insertion.random)
    with torch.no_grad():
        probability = float(view.classifier(view.volume, view.tabular).sigmoid())
        nothing = float(view.classifier(torch.zeros_like(view.volume), view.tabular).sigmoid())
    curves = [check.deletion.probabilities, check.insertion.probabilities[::-1]]
    np.testing.assert_allclose([(c[0], c[-1]) for c in curves], [(probability, nothing)] * 2, rtol=1e-4)
    assert check_map([view]) == check  # seeds are fixed
    assert check.figures["after/deletion_random"] == pytest.approx(np.mean(check.deletion.random))
    assert check.figures["after/failed"] == 0


def test_a_map_in_the_wrong_place_fails_by_deletion(view: View) -> None:
    right = feature_maps(view.classifier, view.volume, view.tabular)
    wrong = Maps(*(each.max() - each for each in right))
    check = check_map([view], [wrong])
    assert any("deleting" in why for why in check.failures)
    assert check.figures["after/failed"] == 1


def test_a_map_that_shows_the_image_alone_fails_by_its_likeness(view: View) -> None:
    """Identical places whatever the weights: every channel of the feature map is the volume itself."""
    classifier = Classifier(narrow("resnet18", fusion="none", resnet=view_widths(2)), 0).eval()
    classifier.backbone.features = nn.Sequential(nn.Identity())
    nn.init.ones_(classifier.head.weight)
    check = check_map([View(classifier, view.volume, None)])
    assert check.similarity["all layers"] == pytest.approx(1)
    assert any("weights" in why for why in check.failures)


def view_widths(channels: int) -> dict[str, tuple[int, ...]]:
    return {"widths": (4, 4, 4, channels)}


def test_maps_with_nothing_to_check_fail_in_words(view: View) -> None:
    maps = feature_maps(view.classifier, view.volume, view.tabular)
    zero = check_map([view], [Maps(*(torch.zeros_like(each) for each in maps))])
    even = check_map([view], [Maps(*(torch.ones_like(each) for each in maps))])
    assert [len(check.failures) for check in (zero, even)] == [1, 1]
    assert "all zero" in zero.failures[0]
    assert "everywhere" in even.failures[0]


def test_shuffling_keeps_every_tensors_values_and_the_original(view: View) -> None:
    before = {name: tensor.clone() for name, tensor in view.classifier.state_dict().items()}
    stages = {
        name: shuffled.state_dict() for name, shuffled in shuffle_from_the_head(view.classifier, torch.Generator())
    }
    assert all(torch.equal(before[name], tensor) for name, tensor in view.classifier.state_dict().items())
    for name, tensor in stages["all layers"].items():
        assert torch.equal(tensor.flatten().sort().values, before[name].flatten().sort().values)
        assert tensor.numel() < 8 or not name.endswith("conv1.weight") or not torch.equal(tensor, before[name])


def test_rank_correlation_is_spearmans_and_zero_without_a_map() -> None:
    a, b = torch.randn(1, 4, 3, 2).relu(), torch.randn(1, 4, 3, 2)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a.flatten(), b.flatten()).statistic)
    assert rank_correlation(a, torch.zeros_like(a)) == 0
    assert rank_correlation(a, torch.full_like(a, torch.nan)) == 0


def test_the_area_under_a_curve_is_the_trapezoids() -> None:
    line = np.linspace(1, 0, STEPS + 1)
    assert Curve(tuple(line), ()).area == pytest.approx(0.5)
    assert dataclasses.replace(Curve(tuple(line), ()), probabilities=(0.3,) * (STEPS + 1)).area == pytest.approx(0.3)
