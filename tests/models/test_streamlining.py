"""A streamlined classifier computes the same function, with no padded copy and no batch norm after a convolution."""

import pytest
import torch
from support.networks import BACKBONES, enliven, narrow
from torch import nn

from rlvo.config.model import BackboneName, FusionName
from rlvo.models.classifier import Classifier
from rlvo.models.streamlining import PaddedConv, streamline


@pytest.mark.parametrize("fusion", ["none", "daft", "offset"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("shape", [(32, 33, 34), (45, 38, 40), (32, 24, 20)])
def test_logits_are_the_same(backbone: BackboneName, fusion: FusionName, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    classifier = enliven(Classifier(narrow(backbone, fusion=fusion), 4)).eval().double()
    for layer in classifier.modules():
        if isinstance(layer, nn.BatchNorm3d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            nn.init.normal_(layer.running_mean, 0, 0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 1, 3)
            nn.init.normal_(layer.bias, 0, 0.3)
    volumes, tabular = torch.randn(2, 2, *shape).double(), torch.rand(2, 4).double()
    with torch.inference_mode():
        expected = classifier(volumes, tabular)
        streamline(classifier)
        torch.testing.assert_close(classifier(volumes, tabular), expected, rtol=1e-9, atol=1e-9)
    assert expected[0] != expected[1]
    left = [type(layer) for layer in classifier.backbone.features.modules()]
    assert nn.ConstantPad3d not in left
    assert (nn.BatchNorm3d in left) == (backbone == "densenet121")  # whose batch norms come before convolutions too


@pytest.mark.parametrize("backbone", BACKBONES)
def test_group_norm_stays(backbone: BackboneName) -> None:
    torch.manual_seed(0)
    classifier = Classifier(narrow(backbone, fusion="daft", norm="group"), 4).eval().double()
    volumes, tabular = torch.randn(2, 2, 32, 33, 34).double(), torch.rand(2, 4).double()
    with torch.inference_mode():
        expected = classifier(volumes, tabular)
        streamline(classifier)
        torch.testing.assert_close(classifier(volumes, tabular), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("padding", [(0, 1), (1, 0), (1, 2), (2, 2), (0, 3)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("side", [9, 10])
def test_uneven_padding_equals_a_padded_copy(padding: tuple[int, int], stride: int, side: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv3d(2, 3, (3, 5, 1), stride=stride).double()
    each_axis = (0, 0, *padding, 1, 1)  # last axis first
    x = torch.randn(1, 2, side, side + 1, side + 2, dtype=torch.double)
    expected = conv(nn.ConstantPad3d(each_axis, 0.0)(x))
    torch.testing.assert_close(PaddedConv(conv, each_axis)(x), expected)
