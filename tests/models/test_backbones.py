import pytest
import torch
from monai.networks.nets.efficientnet import EfficientNetBN
from support.networks import BACKBONES, narrow

from rlvo.config.model import BackboneName, ModelConfig
from rlvo.errors import RlvoError
from rlvo.models.backbones import build_backbone, check_volume, group_count, smallest_volume


@pytest.mark.slow
def test_refused_volume_names_the_smallest_that_works() -> None:
    with pytest.raises(RlvoError, match=r"32×24×20 voxels is too small for densenet169.*cube that works is 29×29×29"):
        check_volume(ModelConfig(backbone="densenet169"), (32, 24, 20), batch_size=4)
    check_volume(ModelConfig(backbone="densenet169"), (29, 29, 29), batch_size=4)


@pytest.mark.slow
def test_batch_norm_over_a_single_value_is_refused() -> None:
    """48³ leaves DenseNet169 a map of 1×1×1: batch norm has one value at batch size 1."""
    config = ModelConfig(backbone="densenet169")
    with pytest.raises(RlvoError, match="batch size of 2 or more"):
        check_volume(config, (48, 48, 48), batch_size=1)
    check_volume(config, (48, 48, 48), batch_size=2)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_smallest_volume_trains_and_the_next_smaller_does_not(batch_size: int) -> None:
    side = smallest_volume(narrow(), batch_size)
    backbone = build_backbone(narrow()).train()
    backbone(torch.zeros(batch_size, 2, side, side, side))
    with pytest.raises((RuntimeError, ValueError)):
        backbone(torch.zeros(batch_size, 2, side - 1, side - 1, side - 1))


def test_demo_network_takes_the_demo_grid() -> None:
    check_volume(narrow(), (32, 24, 20), batch_size=8)
    assert build_backbone(narrow()).out_channels == (8 + 3 * 8) // 2 + 3 * 8


@pytest.mark.parametrize("side", [1, 2, 5, 20])
def test_efficientnet_takes_small_grids(side: int) -> None:
    shape = (32, 24, side)
    config = narrow("efficientnet-b0")
    check_volume(config, shape, batch_size=2)
    backbone = build_backbone(config).train()
    volume = torch.randn(2, 2, *shape, requires_grad=True)
    backbone(volume).square().sum().backward()
    assert volume.grad is not None
    assert volume.grad.isfinite().all()


def test_efficientnet_is_monais_where_monais_works() -> None:
    torch.manual_seed(0)
    ours = build_backbone(ModelConfig(backbone="efficientnet-b0", modality="NCCT")).eval()
    monais = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=1, num_classes=1).eval()
    weights = dict(zip(monais.state_dict(), ours.state_dict().values(), strict=False))
    monais.load_state_dict({**monais.state_dict(), **weights})
    monais._avg_pooling = monais._dropout = monais._fc = torch.nn.Identity()
    volume = torch.randn(1, 1, 45, 64, 50)
    with torch.inference_mode():
        torch.testing.assert_close(ours.activation(ours(volume)).flatten(1), monais(volume), rtol=0, atol=0)


def test_batch_norms_momentum_is_the_configured_one() -> None:
    for momentum in (0.1, 0.25):
        options = {"width": 0.5, "depth": 0.5, "batch_norm_momentum": momentum}
        layers = build_backbone(narrow("efficientnet-b0", efficientnet=options)).modules()
        assert {layer.momentum for layer in layers if isinstance(layer, torch.nn.BatchNorm3d)} == {momentum}


def test_resnet_passes_gradient_through_its_shortcuts() -> None:
    """With both convolution paths of the last stage's first block cut, the gradient must still reach the input."""
    backbone = build_backbone(ModelConfig(backbone="resnet18"))
    for block in backbone.features.layer4:
        residual = getattr(block, "block", block)
        torch.nn.init.zeros_(residual.bn2.weight)
    volume = torch.randn(1, 2, 64, 64, 64, requires_grad=True)
    backbone(volume).square().sum().backward()
    assert volume.grad is not None
    assert volume.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("channels", "groups"), [(1664, 32), (64, 16), (128, 32), (1280, 32), (24, 6), (14, 2), (13, 1), (4, 1), (1, 1)]
)
def test_groups_are_equal_and_at_least_four_channels(channels: int, groups: int) -> None:
    assert group_count(channels) == groups


@pytest.mark.parametrize("backbone", BACKBONES)
def test_group_norm_takes_the_place_of_batch_norm_everywhere(backbone: BackboneName) -> None:
    batch, group = (build_backbone(narrow(backbone, norm=norm)) for norm in ("batch", "group"))
    replaced = {name for name, layer in batch.named_modules() if isinstance(layer, torch.nn.BatchNorm3d)}
    found = {name: layer for name, layer in group.named_modules() if isinstance(layer, torch.nn.GroupNorm)}
    assert replaced == set(found)
    assert not [layer for layer in group.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    statistics = {name for name in batch.state_dict() if "running_" in name or "num_batches" in name}
    assert batch.state_dict().keys() - statistics == group.state_dict().keys()
    assert {layer.eps for layer in found.values()} == {1e-3 if backbone == "efficientnet-b0" else 1e-5}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_with_group_norm_a_patient_is_seen_alike_alone_and_in_training(backbone: BackboneName) -> None:
    model = narrow(backbone, norm="group")
    check_volume(model, (32, 32, 32), batch_size=1)
    network = build_backbone(model).eval()
    volumes = 3 * torch.randn(3, 2, 32, 32, 32) + 1
    together = network(volumes)
    torch.testing.assert_close(network(volumes[1:2]), together[1:2], rtol=1e-4, atol=1e-5)
    if backbone != "efficientnet-b0":  # whose blocks are dropped at random in training
        torch.testing.assert_close(network.train()(volumes), together, rtol=1e-4, atol=1e-5)
