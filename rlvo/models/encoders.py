"""MONAI's networks that others have pretrained, up to their last feature map, under the names that their weights have.

MedicalNet's ResNets (Chen et al. 2019, "Med3D") and the SegResNet encoder of CT-FM (Pai et al. 2025). Which files fit:
docs/pretrained.md.
"""

from collections import OrderedDict
from functools import partial
from typing import Literal

from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck
from monai.networks.nets.segresnet_ds import SegResEncoder
from torch import Tensor, nn
from torch.nn.functional import pad

Depth = Literal[10, 18, 34, 50]
MEDICALNET: dict[Depth, tuple[str, list[int], str]] = {
    10: ("basic", [1, 1, 1, 1], "B"),
    18: ("basic", [2, 2, 2, 2], "A"),
    34: ("basic", [3, 4, 6, 3], "A"),
    50: ("bottleneck", [3, 4, 6, 3], "B"),
}
"""Block, blocks of each stage, and kind of shortcut, as the pretrained weights need them."""


def medicalnet(depth: Depth, channels: int) -> tuple[nn.Sequential, int]:
    """A MedicalNet ResNet up to its last residual sum, which has no ReLU, and its channels there."""
    block, blocks, shortcut = MEDICALNET[depth]
    network = ResNet(
        block,
        blocks,
        [64, 128, 256, 512],
        n_input_channels=channels,
        conv1_t_stride=2,
        shortcut_type=shortcut,
        feed_forward=False,
        bias_downsample=False,
    )
    for each in [each for each in network.modules() if isinstance(each, ResNetBlock | ResNetBottleneck)]:
        if isinstance(each.downsample, partial):  # MONAI's passes no gradient
            each.downsample = PaddedShortcut(each.downsample.keywords["planes"], each.stride)
    last = network.layer4[-1] = LastBlock(network.layer4[-1])
    names = ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4")
    return nn.Sequential(OrderedDict((name, getattr(network, name)) for name in names)), last.channels


class PaddedShortcut(nn.Module):
    """The shortcut without weights (type A): every so many voxels of each axis, and zeros for the channels to come."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        step = slice(None, None, self.stride)
        return pad(x[:, :, step, step, step], (0, 0, 0, 0, 0, 0, 0, self.channels - x.shape[1]))


class LastBlock(nn.Module):
    """A residual block without the ReLU after its sum; its layers keep their names."""

    def __init__(self, block: ResNetBlock | ResNetBottleneck) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act = block.conv1, block.bn1, block.act
        self.conv2, self.bn2, self.downsample = block.conv2, block.bn2, block.downsample
        self.conv3, self.bn3 = (getattr(block, name, None) for name in ("conv3", "bn3"))
        self.channels: int = (self.conv3 or self.conv2).out_channels

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        summed: Tensor = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        if self.conv3 is not None and self.bn3 is not None:
            summed = self.bn3(self.conv3(self.act(summed)))
        return summed + residual


def segresnet(channels: int) -> tuple[nn.Sequential, int]:
    """The SegResNet encoder in the shape of CT-FM, up to its last residual sum, and its channels there."""
    network = SegResEncoder(in_channels=channels, init_filters=32, blocks_down=(1, 2, 2, 4, 4))
    levels = [nn.Sequential(OrderedDict(level.items())) for level in network.layers]
    features = OrderedDict[str, nn.Module](conv_init=network.conv_init, layers=nn.Sequential(*levels))
    return nn.Sequential(features), 32 * 2 ** (len(levels) - 1)
