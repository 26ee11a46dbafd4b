import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rlvo.config.model import BackboneName, DenseNetOptions, FusionName, Modality, ModelConfig
from rlvo.models.classifier import Classifier
from rlvo.models.cost import model_cost

PAPER = (246, 295, 258)


@pytest.mark.parametrize(
    ("backbone", "channels", "gflop", "gib", "recomputed"),
    [("densenet169", 1664, 901, 8.4, 3.7), ("efficientnet-b0", 1280, 49, 7.82, 3.6)],
)
def test_paper_networks_at_the_paper_grid(
    backbone: BackboneName, channels: int, gflop: float, gib: float, recomputed: float
) -> None:
    """Feature maps of the paper's networks; cost as measured on MONAI's own networks without fusion.

    MONAI's EfficientNet-B0 keeps 7.9 GiB: ours keeps no padded copies where padding is even.
    """
    cost = model_cost(ModelConfig(backbone=backbone, fusion="daft"), PAPER, 21)
    assert cost.last_map == (channels, 7, 9, 8)
    assert cost.forward_gflop == pytest.approx(gflop, rel=0.005)
    assert cost.activation_bytes / 2**30 == pytest.approx(gib, rel=0.01)
    assert cost.recomputed_bytes / 2**30 == pytest.approx(recomputed, rel=0.01)


@pytest.mark.parametrize("backbone", ["densenet169", "efficientnet-b0"])
@pytest.mark.parametrize(("modality", "prior", "channels"), [("CTA", False, 1), ("NCCT", True, 2), ("BOTH", True, 3)])
def test_paper_networks_take_every_input(
    backbone: BackboneName, modality: Modality, prior: bool, channels: int
) -> None:
    with torch.device("meta"):
        classifier = Classifier(ModelConfig(backbone=backbone, modality=modality, prior=prior), 21)
        assert classifier(torch.empty(1, channels, *PAPER), torch.empty(1, 21)).shape == (1,)


def test_cost_of_a_network_small_enough_to_count_by_hand() -> None:
    """A stem, one dense layer and the head: parameters and multiply-adds from the layers' definitions."""
    config = ModelConfig(
        backbone="densenet121",
        modality="CTA",
        fusion="none",
        densenet=DenseNetOptions(init_features=4, growth_rate=2, block_config=(1,), stem_kernel=3),
    )
    cost = model_cost(config, (16, 16, 16), 0)
    stem, reduce, grow, head = 4 * 27, 4 * 8, 8 * 2 * 27, 6
    norms = 2 * (4 + 4 + 8 + 6)
    assert cost.parameters == stem + reduce + grow + head + 1 + norms
    multiplications = 8**3 * stem + 4**3 * (reduce + grow) + head
    assert cost.forward_gflop == pytest.approx(2 * multiplications / 1e9)
    assert cost.last_map == (6, 4, 4, 4)
    # In fp32: the volume, both blocks' outputs and the last activation's; in the stem its convolution, its norm and the
    # indices of its pooling.
    between, stem = 4 * (16**3 + (4 + 6 + 6) * 4**3), 4 * 2 * 4 * 8**3 + 8 * 4 * 4**3
    assert cost.recomputed_bytes == pytest.approx(between + stem, rel=0.01)


def test_activation_bytes_grow_with_the_volume() -> None:
    config = ModelConfig(backbone="resnet18", modality="CTA", fusion="none")
    small, large = (model_cost(config, (side,) * 3, 0).activation_bytes for side in (64, 128))
    assert large / small == pytest.approx(8, rel=0.02)
    assert small > 4 * 64**3 + 4 * 64 * 32**3 * 2  # the input, and the stem's convolution and norm, in fp32


@pytest.mark.parametrize("backbone", ["densenet121", "efficientnet-b0", "resnet18"])
@pytest.mark.parametrize("fusion", ["concat", "daft", "film", "offset"])
def test_operations_are_those_that_torch_counts(backbone: BackboneName, fusion: FusionName) -> None:
    config = ModelConfig(backbone=backbone, fusion=fusion)
    with torch.device("meta"):
        classifier, inputs = Classifier(config, 21).train(), (torch.empty(2, 2, 64, 64, 64), torch.empty(2, 21))
    with FlopCounterMode(display=False) as counter:
        classifier(*inputs)
    assert model_cost(config, (64, 64, 64), 21).forward_gflop == pytest.approx(counter.get_total_flops() / 2e9)
