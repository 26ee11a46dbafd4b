"""Networks narrow enough to run in a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlvo.config.model import BackboneName, DenseNetOptions, EfficientNetOptions, ModelConfig, ResNetOptions

if TYPE_CHECKING:
    from torch import Tensor

    from rlvo.models.classifier import Classifier

STUDY = """
grid: focus
model: {backbone: densenet121, modality: NCCT, fusion: none,
        densenet: {init_features: 4, growth_rate: 4, block_config: [2, 2], stem_kernel: 3}}
folds: {folds: 2}
"""
"""The YAML of a study of synthetic patients that trains in seconds, but for its name and training."""
BACKBONES: tuple[BackboneName, ...] = ("densenet121", "efficientnet-b0", "resnet18")


def narrow(backbone: BackboneName = "densenet121", **choices: object) -> ModelConfig:
    """A model spec of few channels and layers; its DenseNet is the demo's."""
    options = {
        "densenet": DenseNetOptions(init_features=8, growth_rate=8, block_config=(3, 3), stem_kernel=3),
        "efficientnet": EfficientNetOptions(width=0.5, depth=0.5),
        "resnet": ResNetOptions(widths=(4, 8, 8, 16)),
    }
    return ModelConfig.model_validate({"backbone": backbone, **options, **choices})


def enliven(classifier: Classifier) -> Classifier:
    """Give a network with fusion `offset`, whose head starts at zero, a random head and a random regression."""
    from torch import nn

    if classifier.offset is not None:
        nn.init.normal_(classifier.head.weight, 0, 0.1)
        nn.init.normal_(classifier.offset.coefficients)
    return classifier


def check_mirror_images(classifier: Classifier, volume: Tensor, left: Tensor, right: Tensor) -> None:
    """The first patient's occlusion is on the left, the second's on the right; mirrored, they are the same to it.

    Args:
        volume: [2, C, X, Y, Z], HU.
        left, right: a row of the encoded table [T] for each side.
    """
    import torch

    with torch.no_grad():
        features = classifier.features(volume, torch.stack([left, right]))
        mirrored = classifier.features(volume.flip(2), torch.stack([right, left]))
        wrong = classifier.features(volume, torch.stack([right, left]))
    torch.testing.assert_close(features, mirrored, rtol=0, atol=0)
    assert not torch.equal(features, wrong)
