"""MONAI's 3-D networks up to their last feature map, and the smallest volume that each can take."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence

import torch
from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.efficientnet import EfficientNet, MBConvBlock
from monai.networks.nets.resnet import ResNet, ResNetBlock
from torch import Tensor, nn

from rlvo.config.model import DenseNetOptions, EfficientNetOptions, ModelConfig, ResNetOptions
from rlvo.errors import RlvoError
from rlvo.models.depthwise import DepthwiseConv3d
from rlvo.models.encoders import medicalnet, segresnet
from rlvo.models.padding import FittingPad3d
from rlvo.models.symmetry import Symmetry


class Backbone(nn.Module):
    """An image network up to its last normalisation, after which a fusion may act (METHOD: "where DAFT sits").

    Attributes:
        features: [B, channels, X, Y, Z] → the last feature map [B, out_channels, x, y, z], before its activation.
        activation: applied to that map, after the fusion if there is one, before pooling.
        out_channels: channels of the last feature map.
    """

    def __init__(self, features: nn.Sequential, activation: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.features, self.activation, self.out_channels = features, activation, out_channels

    def forward(self, volume: Tensor) -> Tensor:
        features: Tensor = self.features(volume)
        return features


def build_backbone(config: ModelConfig) -> Backbone:
    """Build the configured backbone with random weights; it takes `config.input_channels` channels."""
    backbone = _with_batch_norm(config)
    if config.norm == "group":
        for name, layer in list(backbone.named_modules()):
            if isinstance(layer, nn.BatchNorm3d):
                group_norm = nn.GroupNorm(group_count(layer.num_features), layer.num_features, eps=layer.eps)
                backbone.set_submodule(name, group_norm)
    return backbone


MOST_GROUPS, FEWEST_CHANNELS = 32, 4
"""Wu & He (2018) use 32 groups. What all channels of a group have in common is lost, and in a group of one or two
(instance norm is one) that would be all or half of what their means say."""


def group_count(channels: int) -> int:
    """The most groups of equal size that a group norm of so many channels may have; at least 1."""
    most = min(MOST_GROUPS, max(channels // FEWEST_CHANNELS, 1))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def _with_batch_norm(config: ModelConfig) -> Backbone:
    channels = config.input_channels
    match config.backbone:
        case "densenet169":
            return _densenet(config.densenet, channels, block_config=(6, 12, 32, 32))
        case "densenet121":
            return _densenet(config.densenet, channels, block_config=(6, 12, 24, 16))
        case "efficientnet-b0":
            return _efficientnet(config.efficientnet, channels)
        case "resnet18":
            return _resnet(config.resnet, channels)
        case "medicalnet-resnet10":
            return _pretrained_shape(*medicalnet(10, channels))
        case "medicalnet-resnet18":
            return _pretrained_shape(*medicalnet(18, channels))
        case "medicalnet-resnet34":
            return _pretrained_shape(*medicalnet(34, channels))
        case "medicalnet-resnet50":
            return _pretrained_shape(*medicalnet(50, channels))
        case "segresnet":
            return _pretrained_shape(*segresnet(channels))


def _pretrained_shape(features: nn.Sequential, out_channels: int) -> Backbone:
    return Backbone(features, nn.ReLU(), out_channels)


def _densenet(options: DenseNetOptions, channels: int, block_config: Sequence[int]) -> Backbone:
    init_features = options.init_features or 64
    features = DenseNet(
        spatial_dims=3,
        in_channels=channels,
        out_channels=1,
        init_features=init_features,
        growth_rate=options.growth_rate or 32,
        block_config=options.block_config or block_config,
    ).features
    if options.stem_kernel != 7:
        features.conv0 = nn.Conv3d(
            channels, init_features, options.stem_kernel, stride=2, padding=options.stem_kernel // 2, bias=False
        )
        nn.init.kaiming_normal_(features.conv0.weight)
    return Backbone(features, nn.ReLU(), features.norm5.num_features)


EFFICIENTNET_B0_BLOCKS = (
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
)
"""Repeats, kernel, stride, expansion, input and output channels, squeeze ratio (Tan & Le 2019, table 1)."""


def _efficientnet(options: EfficientNetOptions, channels: int) -> Backbone:
    network = EfficientNet(
        list(EFFICIENTNET_B0_BLOCKS),
        spatial_dims=3,
        in_channels=channels,
        num_classes=1,
        width_coefficient=options.width,
        depth_coefficient=options.depth,
        norm=("batch", {"eps": 1e-3, "momentum": options.batch_norm_momentum}),
    )
    network._conv_stem_padding = _fitting(network._conv_stem_padding, network._conv_stem)
    for block in (block for stage in network._blocks for block in stage):
        _improve_depthwise(block)
    layers = OrderedDict(
        stem_padding=network._conv_stem_padding,
        stem=network._conv_stem,
        norm0=network._bn0,
        swish0=network._swish,
        blocks=network._blocks,
        head_padding=network._conv_head_padding,
        head=network._conv_head,
        norm1=network._bn1,
    )
    return Backbone(nn.Sequential(layers), nn.SiLU(), network._bn1.num_features)


def _improve_depthwise(block: MBConvBlock) -> None:
    """Give an EfficientNet block a faster backward pass; padding that is even becomes the convolution's own."""
    conv, padding = block._depthwise_conv, _fitting(block._depthwise_conv_padding, block._depthwise_conv)
    own = (0, 0, 0)
    if isinstance(padding, FittingPad3d) and padding.is_even_and_enough:
        own, padding = padding.padding[::-2], nn.Identity()
    block._depthwise_conv, block._depthwise_conv_padding = DepthwiseConv3d(conv, own), padding


def _fitting(padding: nn.Module, conv: nn.Conv3d) -> nn.Module:
    return FittingPad3d(padding.padding, conv.kernel_size) if isinstance(padding, nn.ConstantPad3d) else padding


def _resnet(options: ResNetOptions, channels: int) -> Backbone:
    network = ResNet(
        "basic",
        list(options.blocks),
        list(options.widths),
        spatial_dims=3,
        n_input_channels=channels,
        conv1_t_size=options.stem_kernel,
        conv1_t_stride=2,
        shortcut_type="B",  # MONAI's type A passes no gradient through the shortcut
        feed_forward=False,
        bias_downsample=False,
    )
    network.layer4[-1] = _ResidualSum(network.layer4[-1])
    stages = {name: getattr(network, name) for name in ("layer1", "layer2", "layer3", "layer4")}
    layers = OrderedDict(stem=network.conv1, norm=network.bn1, relu=network.act, pool=network.maxpool, **stages)
    return Backbone(nn.Sequential(layers), nn.ReLU(), options.widths[-1])


class _ResidualSum(nn.Module):
    """A basic residual block without the ReLU after its sum."""

    def __init__(self, block: ResNetBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        residual = x if block.downsample is None else block.downsample(x)
        summed: Tensor = block.bn2(block.conv2(block.act(block.bn1(block.conv1(x))))) + residual
        return summed


LARGEST_SIDE = 1024


def smallest_volume(config: ModelConfig, batch_size: int = 2) -> int:
    """Side in voxels of the smallest cube that the backbone can be trained on; nothing is computed (meta device)."""
    backbone = _on_meta(config)
    sides = range(1, LARGEST_SIDE)
    return 1 + bisect_left(sides, True, key=lambda side: _fits(backbone, config, (side,) * 3, batch_size))


def check_volume(config: ModelConfig, shape: Sequence[int], batch_size: int) -> None:
    """Check that the backbone can be trained on volumes of `shape` voxels in batches of `batch_size`.

    It cannot if a map shrinks to nothing, or if the last map is one voxel at batch size 1, so that batch norm has
    nothing to average over.

    Raises:
        RlvoError: the volume is too small; names the smallest cube that works.
    """
    backbone = _on_meta(config)
    if _fits(backbone, config, shape, batch_size):
        return
    side = smallest_volume(config, batch_size)
    fix = f"The smallest cube that works is {side}×{side}×{side}: use a finer or larger grid, or a shallower backbone"
    if batch_size == 1 and _fits(backbone, config, shape, 2):
        fix += ", or a batch size of 2 or more"
    voxels = "×".join(map(str, shape))
    what = f"a volume of {voxels} voxels is too small for {config.backbone} at batch size {batch_size}"
    raise RlvoError(what, where="grid", fix=fix)


def _on_meta(config: ModelConfig) -> Backbone:
    with torch.device("meta"):
        return build_backbone(config).train()


def _fits(backbone: Backbone, config: ModelConfig, shape: Sequence[int], batch_size: int) -> bool:
    seen = Symmetry(config).shape(shape)
    volume = torch.empty(batch_size, config.input_channels, *seen, device="meta")
    try:
        with torch.no_grad():
            backbone(volume)
    except (RuntimeError, ValueError):  # raised by torch for an empty map and for batch norm over one value
        return False
    return True
