"""Grad-CAM against its formula by hand, finite differences, and planted spots."""

import numpy as np
import pytest
import torch
from support.networks import BACKBONES, enliven, narrow
from torch import Tensor, nn

from rlvo.config.model import BackboneName, DaftOptions, ModelConfig, ResNetOptions
from rlvo.explain.gradcam import View, before_and_after, feature_maps, mean_maps
from rlvo.models.classifier import Classifier
from rlvo.models.streamlining import streamline

SHAPE = (6, 5, 4)
FUSIONS = ("none", "concat", "film", "daft", "offset")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def lively(config: ModelConfig, tabular: int) -> Classifier:
    """A classifier with random weights whose map is not all zero: channels count for rLVO, scales are near 1."""
    options = {"bottleneck_ratio": 2, "identity_init": True}
    classifier = enliven(Classifier(config.model_copy(update={"daft": DaftOptions.model_validate(options)}), tabular))
    with torch.no_grad():
        classifier.head.weight.abs_()
        if classifier.modulation is not None:
            classifier.modulation.expand.weight.normal_(0, 0.2)
    return classifier.eval()


def voxelwise(fusion: str, channels: int = 6, tabular: int = 4) -> Classifier:
    """A classifier whose feature map is a linear mix of the input at the same voxel."""
    config = narrow("resnet18", fusion=fusion, modality="BOTH", compress_input=False)
    classifier = lively(config.model_copy(update={"resnet": ResNetOptions(widths=(4, 4, 4, channels))}), tabular)
    classifier.backbone.features = nn.Sequential(nn.Conv3d(2, channels, 1))
    return classifier


def by_hand(features: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """ReLU(Σ_c α_c F_c) of one patient, from [C, x, y, z]."""
    return np.maximum(np.einsum("c,cxyz->xyz", gradient.mean(axis=(1, 2, 3)), features), 0)


def closed_form(classifier: Classifier, volume: Tensor, table: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The maps before and after DAFT of one patient, from the derivatives of equations 1 and 2 written out."""
    daft = classifier.modulation
    assert daft is not None
    w1, w2, w = (layer.weight.detach().double().numpy() for layer in (daft.squeeze, daft.expand, classifier.head))
    conv = classifier.backbone.features[0]
    mixed = np.einsum("cd,dxyz->cxyz", conv.weight.detach().double().numpy()[:, :, 0, 0, 0], volume[0].double().numpy())
    F = mixed + conv.bias.detach().double().numpy()[:, None, None, None]
    C, N = len(F), F[0].size
    hidden = w1 @ np.concatenate([F.mean(axis=(1, 2, 3)), table[0].double().numpy()])
    S, B = np.split(w2 @ np.maximum(hidden, 0), 2)
    S = S + 1  # identity_init
    changed = F * S[:, None, None, None] + B[:, None, None, None]
    after = w[0][:, None, None, None] / N * (changed > 0)
    by_pooled = w2 @ ((hidden > 0)[:, None] * w1[:, :C])  # d[S;B]/dP
    by_scale, by_shift = (after * F).sum(axis=(1, 2, 3)), after.sum(axis=(1, 2, 3))
    through_pooled = by_scale @ by_pooled[:C] + by_shift @ by_pooled[C:]
    before = after * S[:, None, None, None] + through_pooled[:, None, None, None] / N
    return by_hand(F, before), by_hand(changed, after)


@pytest.mark.parametrize("seed", range(4))
def test_maps_equal_the_closed_form_before_and_after_daft(seed: int) -> None:
    torch.manual_seed(seed)
    classifier, volume, table = voxelwise("daft"), torch.randn(1, 2, *SHAPE), torch.rand(1, 4)
    maps = before_and_after(classifier, volume, table)
    expected = closed_form(classifier, volume, table)
    assert all(each.any() for each in expected)
    for found, each in zip(maps, expected, strict=True):
        np.testing.assert_allclose(found[0].numpy(), each, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_weights_are_finite_differences_of_the_logit(fusion: str) -> None:
    classifier = lively(narrow("densenet121", fusion=fusion), 5).double()
    volume, table = 20 * torch.randn(1, 2, 16, 16, 16).double(), torch.rand(1, 5).double()
    with torch.no_grad():
        F = classifier.features(volume)
        steps = 1e-5 * torch.eye(F.shape[1]).double()[:, :, None, None, None]

        def logits(features: Tensor) -> Tensor:
            tables = table.expand(len(features), -1)
            fused = features if classifier.modulation is None else classifier.modulation(features, tables)
            return classifier.classify(fused, tables)

        # The derivative along a channel raised everywhere is the sum over its voxels; the map's weight is the mean.
        weights = (logits(F + steps) - logits(F - steps)) / 2e-5 / F[0, 0].numel()
        expected = torch.einsum("c,cxyz->xyz", weights, F[0]).relu()
    assert expected.any()
    found = feature_maps(classifier, volume, table).before[0]
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3 * float(expected.max()))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_and_fusion_gives_maps_on_the_inputs_grid(backbone: BackboneName, fusion: str) -> None:
    classifier = lively(narrow(backbone, fusion=fusion, prior=True), 5).train().requires_grad_(False)
    volume, table, shape = 20 * torch.randn(2, 3, 33, 24, 20), torch.rand(2, 5), (2, 33, 24, 20)
    maps = before_and_after(classifier, volume, table)
    assert all(each.shape == shape and bool(each.isfinite().all()) and float(each.min()) >= 0 for each in maps)
    assert torch.equal(*maps) == (fusion in ("none", "concat", "offset"))
    assert classifier.training  # as it was: a network in training mode is asked in evaluation mode all the same
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    alone = before_and_after(classifier, volume[1:], table[1:])
    with torch.inference_mode():
        streamlined = before_and_after(streamline(classifier), volume, table)
    for found, one, fast in zip(maps, alone, streamlined, strict=True):
        torch.testing.assert_close(found[1:], one, rtol=1e-3, atol=1e-5 * float(found.max()) + 1e-12)
        torch.testing.assert_close(found, fast, rtol=1e-3, atol=1e-4 * float(found.max()) + 1e-12)


def spot_detector(sign: float) -> Classifier:
    """A classifier whose logit rises (or falls) with every voxel above zero; DAFT leaves the map alone."""
    classifier = voxelwise("daft", channels=1)
    daft, conv = classifier.modulation, classifier.backbone.features[0]
    assert daft is not None
    daft.scale_offset = 1.0
    for parameter, value in ((daft.expand.weight, 0), (conv.weight, 1), (conv.bias, 0), (classifier.head.weight, sign)):
        nn.init.constant_(parameter, value)
    return classifier


def test_the_map_is_not_inverted_and_keeps_its_orientation() -> None:
    volume = -torch.ones(1, 2, *SHAPE)
    volume[0, :, 5, 0, 2] = 3
    for each in before_and_after(spot_detector(1.0), volume, torch.zeros(1, 4)):
        assert np.argwhere(each[0].numpy()).tolist() == [[5, 0, 2]]


def test_what_speaks_against_rlvo_gives_an_all_zero_map() -> None:
    classifier, table = spot_detector(-1.0), torch.zeros(1, 4)
    volume = torch.ones(1, 2, *SHAPE)
    assert not any(bool(each.any()) for each in before_and_after(classifier, volume, table))
    both = mean_maps([View(classifier, volume, table), View(spot_detector(1.0), volume, table)])
    assert both.silent == {"before": 1, "after": 1}
    assert both.networks == 2
    assert not both.is_silent("after")
    np.testing.assert_allclose(both.after.mean(), 0.5, rtol=1e-5)
    assert mean_maps([View(classifier, volume, table)]).is_silent("before")


def test_networks_count_by_weight_not_by_scale() -> None:
    volume, table = -torch.ones(1, 2, *SHAPE), torch.zeros(1, 4)
    loud, quiet = spot_detector(1000.0), spot_detector(0.001)
    here, there = volume.clone(), volume.clone()
    here[0, :, 0, 0, 0], there[0, :, 5, 4, 3] = 1, 1
    mean = mean_maps([View(loud, here, table), View(quiet, there, table, weight=3.0)]).after
    voxels = float(np.prod(SHAPE))
    np.testing.assert_allclose([mean[0, 0, 0], mean[5, 4, 3]], [voxels / 4, voxels * 3 / 4], rtol=1e-5)
    assert np.count_nonzero(mean) == 2


def test_a_model_with_fusion_needs_the_table() -> None:
    with pytest.raises(ValueError, match="tabular"):
        before_and_after(voxelwise("daft"), torch.zeros(1, 2, *SHAPE))
    imaging = Classifier(narrow("densenet121", fusion="none"), 0)
    assert before_and_after(imaging, torch.zeros(1, 2, 16, 16, 16)).after.shape == (1, 16, 16, 16)
