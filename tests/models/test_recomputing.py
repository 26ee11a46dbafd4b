"""Maps that are computed again: the same numbers to the bit, names that stay, less that is kept."""

import pytest
import torch
from support.networks import BACKBONES, narrow
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from rlvo.config.model import BackboneName
from rlvo.models.backbones import build_backbone
from rlvo.models.classifier import Classifier
from rlvo.models.recomputing import Recomputing, blocks

SHAPE = (2, 2, 32, 32, 32)


def built(backbone: BackboneName) -> Classifier:
    torch.manual_seed(0)
    return Classifier(narrow(backbone, fusion="daft"), 3)


def trained(classifier: Classifier, *, bfloat16: bool = False) -> tuple[list[Tensor], dict[str, Tensor], int]:
    """Gradients and weights after two steps, and the bytes that the last one kept."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.01)
    torch.manual_seed(1)
    classifier.train()
    for _ in range(2):
        volume, table = torch.randn(SHAPE), torch.randn(2, 3)
        optimizer.zero_grad()
        kept.clear()
        with saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = classifier(volume, table).square().sum()
        loss.backward()
        optimizer.step()
    return [each.grad for each in classifier.parameters()], classifier.state_dict(), sum(kept.values())


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_gradients_and_running_statistics_are_the_same_to_the_bit(backbone: BackboneName, bfloat16: bool) -> None:
    plain, recomputing = built(backbone), built(backbone)
    recomputing.backbone.features = Recomputing(recomputing.backbone.features)
    gradients, weights, kept = trained(plain, bfloat16=bfloat16)
    same_gradients, same_weights, less = trained(recomputing, bfloat16=bfloat16)
    assert list(same_weights) == list(weights), "names"
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)
    assert all(map(torch.equal, gradients, same_gradients))
    assert less < 0.8 * kept  # the volume itself is kept


def test_dropout_inside_a_block_draws_the_same() -> None:
    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.Dropout(0.5), nn.ReLU(inplace=True))

    gradients = []
    for each in (network(), Recomputing(network())):
        torch.manual_seed(1)
        each(torch.randn(2, 1, 6, 6, 6)).sum().backward()
        gradients.append([weight.grad for weight in each.parameters()])
    assert all(map(torch.equal, *gradients))


def test_blocks_are_those_of_the_network() -> None:
    features = build_backbone(narrow("densenet121")).features
    groups = blocks(features)
    assert groups[0][0] is features.conv0
    assert [len(group) for group in groups[:2]] == [4, 1], "the stem, then a dense layer"
    assert sum(len(list(each.parameters())) for group in groups for each in group) == len(list(features.parameters()))


def test_nothing_is_computed_again_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvo.models.recomputing.checkpoint", lambda *given, **options: pytest.fail("computed again"))
    network = Recomputing(nn.Sequential(nn.Conv3d(1, 1, 1)))
    with torch.no_grad():
        network(torch.ones(1, 1, 2, 2, 2))
    network.eval()(torch.ones(1, 1, 2, 2, 2))
