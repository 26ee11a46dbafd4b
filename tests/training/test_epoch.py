"""An epoch's batches and their parts: what is learned does not depend on how many patients are computed at once."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.networks.nets.efficientnet import MBConvBlock
from support.networks import BACKBONES, narrow
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlvo.config.model import BackboneName, DenseNetOptions, ModelConfig
from rlvo.config.training import AugmentationConfig, TrainingConfig
from rlvo.models.backbones import build_backbone
from rlvo.models.classifier import Classifier
from rlvo.training.dataset import FoldData, Volumes
from rlvo.training.epoch import (
    batches,
    build_optimizer,
    build_schedule,
    parts,
    positive_weight,
    smallest_part,
    train_epoch,
)

NARROW = DenseNetOptions(init_features=4, growth_rate=4, block_config=(1, 1), stem_kernel=3)


@pytest.mark.parametrize(
    ("patients", "size", "expected"),
    [(9, 4, [4, 4]), (8, 4, [4, 4]), (10, 4, [4, 4, 2]), (3, 1, [1, 1, 1]), (1, 4, [1]), (3, 8, [3])],
)
def test_a_last_batch_of_one_is_left_out(patients: int, size: int, expected: list[int]) -> None:
    parts = batches(torch.arange(patients), size)
    assert [len(part) for part in parts] == expected
    assert torch.equal(torch.cat(parts), torch.arange(sum(expected)))


def test_positive_weight_is_the_ratio_of_the_classes() -> None:
    labels = np.array([0, 0, 0, 1, 0, 1, 0, 0])
    assert positive_weight(labels, TrainingConfig(pos_weight=True)) == 3
    assert positive_weight(labels, TrainingConfig()) == 1


@pytest.mark.parametrize(
    ("patients", "at_once", "expected"),
    [
        (8, 8, [8]),
        (8, 4, [4, 4]),
        (5, 4, [3, 2]),
        (10, 4, [4, 3, 3]),
        (3, 2, [2, 1]),
        (4, 1, [1, 1, 1, 1]),
        (2, 8, [2]),
    ],
)
def test_a_batch_is_divided_evenly(patients: int, at_once: int, expected: list[int]) -> None:
    divided = parts(torch.arange(patients), at_once)
    assert [len(part) for part in divided] == expected
    assert torch.equal(torch.cat(divided), torch.arange(patients))


def test_the_smallest_part_is_the_smallest_of_an_epoch() -> None:
    for patients in range(1, 14):
        for size in range(1, 9):
            for at_once in range(1, 9):
                settings = TrainingConfig(batch_size=size, micro_batch=at_once)
                order = batches(torch.arange(patients), size)
                smallest = min(len(part) for batch in order for part in parts(batch, settings.at_once))
                assert smallest_part(patients, settings) == smallest


def train(
    data: FoldData, settings: TrainingConfig, normalise: Callable[[int], nn.Module]
) -> tuple[list[float], Tensor]:
    """Losses of three epochs and all weights after them, of a network with another normalisation than batch norm."""
    model = ModelConfig(backbone="densenet121", densenet=NARROW)
    torch.manual_seed(0)
    classifier = Classifier(model, data.training.tabular.shape[1])
    for name, layer in list(classifier.named_modules()):
        if isinstance(layer, nn.BatchNorm3d):
            classifier.set_submodule(name, normalise(layer.num_features))
    classifier.standardise_with([60.0, 90.0], [20.0, 30.0])
    volumes, optimizer = Volumes(data.training, model.channels), build_optimizer(classifier, settings)
    schedule = build_schedule(optimizer, settings, len(volumes))
    losses = []
    for epoch in range(3):
        torch.manual_seed(epoch)
        losses.append(train_epoch(classifier, volumes, data, settings, optimizer, schedule, 1.7)["train/loss"])
    return losses, nn.utils.parameters_to_vector(classifier.parameters()).detach()


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_the_gradient_is_that_of_the_whole_batch(fold_data: FoldData, micro_batch: int) -> None:
    """23 patients: five batches of 4 and one of 3."""
    augmentation = AugmentationConfig(intensity=0.1)
    settings = TrainingConfig(
        epochs=3, batch_size=4, schedule="one_cycle", learning_rate=3e-3, clip_norm=0.5, augmentation=augmentation
    )
    split = settings.model_copy(update={"micro_batch": micro_batch})
    whole, of_parts = (train(fold_data, each, lambda channels: nn.GroupNorm(1, channels)) for each in (settings, split))
    assert of_parts[0] == pytest.approx(whole[0], rel=0, abs=1e-6)
    torch.testing.assert_close(of_parts[1], whole[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_with_group_norm_single_patients_make_the_gradient_of_their_batch(backbone: BackboneName) -> None:
    """4 × 1 is a batch of 4. What is dropped at random is drawn per part, so EfficientNet drops nothing here."""
    torch.manual_seed(0)
    network = build_backbone(narrow(backbone, norm="group")).double().train()
    for layer in network.modules():
        if isinstance(layer, MBConvBlock):
            layer.drop_connect_rate = 0.0
    volumes, labels = torch.randn(4, 2, 32, 28, 24, dtype=torch.double) + 1, torch.tensor([0.0, 1, 1, 0]).double()
    gradients = []
    for order in (torch.arange(4).split(4), torch.arange(4).split(1)):
        network.zero_grad()
        for part in order:
            logits = network.activation(network(volumes[part])).mean(dim=(1, 2, 3, 4))
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels[part])
            (loss * len(part) / 4).backward()
        gradients.append(nn.utils.parameters_to_vector(weight.grad for weight in network.parameters()))
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-12)


def test_batch_norm_sees_the_parts(fold_data: FoldData) -> None:
    settings = TrainingConfig(epochs=3, batch_size=4, schedule="one_cycle")
    split = settings.model_copy(update={"micro_batch": 2})
    whole, of_parts = (train(fold_data, each, nn.BatchNorm3d) for each in (settings, split))
    assert (of_parts[1] - whole[1]).abs().max() > 1e-5


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for the device: values that are read."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("schedule", ["plateau", "one_cycle"])
def test_no_step_waits_for_a_value(fold_data: FoldData, schedule: str) -> None:
    settings = TrainingConfig.model_validate(
        {"epochs": 3, "batch_size": 4, "micro_batch": 2, "schedule": schedule, "clip_norm": 1}
    )
    with Waits() as waits:
        torch.ones(()).item()
        train(fold_data, settings, nn.BatchNorm3d)
    assert waits.count == 1
