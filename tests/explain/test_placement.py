"""Where feature voxels lie: against what each of them sees, and torch's own interpolation."""

import pytest
import torch
from support.networks import BACKBONES, narrow
from torch import nn
from torch.nn.functional import interpolate

from rlvo.config.model import BackboneName
from rlvo.explain.placement import Placement, place_features, upsample
from rlvo.models.backbones import build_backbone
from rlvo.models.classifier import Classifier
from rlvo.models.streamlining import streamline

DEEP = {"densenet": {"init_features": 4, "growth_rate": 4, "block_config": (2, 2, 2), "stem_kernel": 5}}


def looking_ahead(network: nn.Module) -> nn.Module:
    """The network with every kernel reduced to its central voxel, so that a voxel sees where it lies and no further."""
    for name, child in network.named_children():
        if isinstance(child, nn.MaxPool3d):
            setattr(network, name, nn.AvgPool3d(1, child.stride))
        elif isinstance(child, nn.BatchNorm3d | nn.ReLU | nn.SiLU) or type(child).__name__ == "MemoryEfficientSwish":
            setattr(network, name, nn.Identity())
        looking_ahead(child)
        if isinstance(child, nn.Conv3d):
            nn.init.zeros_(child.weight)
            if not name.startswith("_se"):  # a gate would see the whole volume
                nn.init.ones_(child.weight[:, :, *(side // 2 for side in child.kernel_size)])
            if child.bias is not None:
                nn.init.zeros_(child.bias)
    return network


@pytest.mark.parametrize(
    ("backbone", "shape"),
    [
        *((backbone, shape) for backbone in BACKBONES for shape in ((72, 80, 66), (40, 47, 33))),
        ("medicalnet-resnet18", (40, 47, 33)),
        ("segresnet", (20, 27, 17)),
    ],
)
def test_a_feature_voxel_lies_where_it_looks(backbone: BackboneName, shape: tuple[int, int, int]) -> None:
    config = narrow(backbone, modality="NCCT", **DEEP if backbone == "densenet121" else {})
    features = build_backbone(config).features.eval()
    placement = place_features(features, 1, shape)
    volume = torch.ones(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    seen = looking_ahead(features).double()(volume)
    last = [side - 1 for side in seen.shape[2:]]
    (weight,) = torch.autograd.grad(seen[0, :, *last].sum(), volume)
    for axis, (first, step) in enumerate(zip(*placement, strict=True)):
        profile = weight[0, 0].sum(dim=[other for other in range(3) if other != axis])
        centre = float((profile * torch.arange(shape[axis])).sum() / profile.sum())
        assert centre == pytest.approx(first + step * last[axis], abs=1e-6)


@pytest.mark.parametrize("shape", [(32, 24, 20), (33, 47, 40)])
@pytest.mark.parametrize("backbone", [*BACKBONES, "medicalnet-resnet18", "segresnet"])
def test_streamlining_moves_nothing(backbone: BackboneName, shape: tuple[int, int, int]) -> None:
    classifier = Classifier(narrow(backbone, fusion="none"), 0).eval()
    plain = place_features(classifier.backbone.features, 2, shape)
    assert place_features(streamline(classifier).backbone.features, 2, shape) == plain


def test_evenly_divided_input_is_torchs_own_interpolation() -> None:
    network = nn.Sequential(nn.AvgPool3d(2), nn.Conv3d(1, 1, 3, padding=1), nn.AvgPool3d((3, 2, 1)))
    shape = (24, 16, 10)
    placement = place_features(network, 1, shape)
    assert placement == Placement((2.5, 1.5, 0.5), (6.0, 4.0, 2.0))
    maps = torch.rand(2, 4, 4, 5)
    expected = interpolate(maps[:, None], shape, mode="trilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(upsample(maps, placement, shape), expected)


def test_strided_convolutions_begin_at_the_first_voxel() -> None:
    network = nn.Sequential(nn.Conv3d(1, 1, 3, stride=2, padding=1), nn.Conv3d(1, 1, 3, stride=2, padding=1))
    placement = place_features(network, 1, (17, 17, 17))
    assert placement == Placement((0.0,) * 3, (4.0,) * 3)
    maps = torch.rand(1, 5, 5, 5)
    fine = upsample(maps, placement, (17, 17, 17))
    torch.testing.assert_close(fine[:, ::4, ::4, ::4], maps)
    expected = interpolate(maps[:, None], (17, 17, 17), mode="trilinear", align_corners=True)[:, 0]
    torch.testing.assert_close(fine, expected)
