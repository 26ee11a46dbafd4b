"""The networks that others have pretrained are MONAI's own, and can be trained."""

import pytest
import torch
from monai.networks.nets.resnet import ResNetFeatures
from monai.networks.nets.segresnet_ds import SegResEncoder
from torch import nn

from rlvo.config.model import BackboneName, ModelConfig
from rlvo.models.backbones import Backbone, build_backbone
from rlvo.models.classifier import Classifier
from rlvo.models.recomputing import Recomputing
from rlvo.models.streamlining import streamline

ENCODERS: tuple[BackboneName, ...] = (
    "medicalnet-resnet10", "medicalnet-resnet18", "medicalnet-resnet34", "medicalnet-resnet50", "segresnet",
)  # fmt: skip
SHAPE = (17, 24, 20)


def built(backbone: BackboneName, *, channels: int = 1) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(ModelConfig(backbone=backbone, modality="CTA" if channels == 1 else "BOTH"))


def of_monai(backbone: BackboneName) -> nn.Module:
    """MONAI's own class in the shape of the pretrained weights; it gives the feature maps of all stages."""
    network: nn.Module
    if backbone == "segresnet":
        network = SegResEncoder(spatial_dims=3, in_channels=1, init_filters=32, blocks_down=(1, 2, 2, 4, 4))
    else:
        network = ResNetFeatures(backbone.removeprefix("medicalnet-"), pretrained=False, in_channels=1)
    return network


def liven(network: nn.Module) -> None:
    """Give batch norms statistics and weights as after training."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm3d):
            nn.init.normal_(layer.running_mean, 0, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(layer.weight, 0.5, 1)
            nn.init.normal_(layer.bias, 0, 0.3)


@pytest.mark.parametrize("backbone", ENCODERS)
def test_feature_maps_are_monais_to_the_bit_under_the_same_names(backbone: BackboneName) -> None:
    ours, monais = built(backbone).eval(), of_monai(backbone).eval()
    liven(monais)
    ours.features.load_state_dict(monais.state_dict())  # strict: every name, and no other
    volume = torch.randn(1, 1, *SHAPE)
    with torch.inference_mode():
        last = monais(volume)[-1]
        own = ours(volume)
        torch.testing.assert_close(own if backbone == "segresnet" else ours.activation(own), last, rtol=0, atol=0)
    assert own.min() < 0, "a fusion acts before the ReLU"
    assert own.shape[1] == ours.out_channels
    assert own.std() > 0


def test_the_shortcut_without_weights_passes_a_gradient() -> None:
    """With the convolutions of each stage's first block cut, only shortcuts are left to pass it."""
    backbone = built("medicalnet-resnet18")
    for stage in ("layer2", "layer3", "layer4"):
        nn.init.zeros_(getattr(backbone.features, stage)[0].bn2.weight)
    volume = torch.randn(2, 1, *SHAPE, requires_grad=True)
    backbone(volume).square().sum().backward()
    assert volume.grad is not None
    assert volume.grad.abs().sum() > 0


@pytest.mark.parametrize("backbone", ["medicalnet-resnet10", "medicalnet-resnet18", "medicalnet-resnet50", "segresnet"])
def test_streamlined_they_compute_the_same(backbone: BackboneName) -> None:
    torch.manual_seed(0)
    classifier = Classifier(ModelConfig(backbone=backbone, fusion="daft"), 4).eval()
    liven(classifier)
    classifier.double()
    volume, table = torch.randn(1, 2, *SHAPE).double(), torch.rand(1, 4).double()
    with torch.inference_mode():
        expected = classifier(volume, table)
        torch.testing.assert_close(streamline(classifier)(volume, table), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backbone", ["medicalnet-resnet18", "segresnet"])
def test_computed_again_they_learn_the_same(backbone: BackboneName) -> None:
    gradients = []
    for again in (False, True):
        network = built(backbone, channels=2).train()
        features = Recomputing(network.features) if again else network.features
        features(torch.randn(2, 2, *SHAPE, generator=torch.Generator().manual_seed(1))).square().mean().backward()
        gradients.append([weight.grad for weight in network.parameters()])
    assert all(map(torch.equal, *gradients))
