"""A pretrained image network that stays as it is at first, and then learns more slowly than what follows it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from rlvo.config.model import Configuration
from rlvo.config.training import TrainingConfig
from rlvo.files import file_sha256
from rlvo.models.backbones import build_backbone
from rlvo.training.checkpoint import load_last
from rlvo.training.dataset import FoldData
from rlvo.training.epoch import build_optimizer, build_schedule
from rlvo.training.fit import fit
from rlvo.training.records import CompletionRecord, TrialIdentity

MODEL = {
    "backbone": "densenet121",
    "modality": "CTA",
    "fusion": "none",
    "densenet": {"init_features": 4, "growth_rate": 4, "block_config": [1, 1], "stem_kernel": 3},
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A network's random weights, with statistics that no batch of the fold has."""
    torch.manual_seed(5)
    network = build_backbone(Configuration.model_validate({"model": MODEL}).model).features
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm3d):
            nn.init.uniform_(layer.running_var, 3, 4)  # type: ignore[arg-type]
    save_file(network.state_dict(), path := tmp_path / "weights.safetensors")
    return path


def trained(
    weights: Path, data: FoldData, folder: Path, *, until: int | None = None, **training: object
) -> CompletionRecord | None:
    settings = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "checkpoint": "last", **training}
    model = MODEL | {"pretrained": {"sha256": file_sha256(weights)}}
    configuration = Configuration.model_validate({"model": model, "training": settings})
    identity = TrialIdentity(
        study="test", configuration=configuration.key, fold=1, split_hash="a" * 64, data_hash="b" * 64
    )
    return fit(configuration, data, folder, identity, seed=1, device="cpu", pretrained=weights, until=until)


def changed(weights: Path, folder: Path) -> set[str]:
    """The names of the backbone's tensors, as the last checkpoint has them, that are not those of the file."""
    (checkpoint := load_last(folder))
    assert checkpoint is not None
    return {
        name
        for name, tensor in load_file(weights).items()
        if not torch.equal(tensor, checkpoint.weights[f"backbone.features.{name}"])
    }


def last_head(folder: Path) -> Tensor:
    checkpoint = load_last(folder)
    assert checkpoint is not None
    return checkpoint.weights["head.weight"]


def test_a_frozen_network_keeps_weights_and_statistics_and_the_head_learns(
    weights: Path, fold_data: FoldData, tmp_path: Path
) -> None:
    heads = []
    for epoch in (1, 2):
        trained(weights, fold_data, tmp_path / "trial", until=epoch, epochs=3, freeze_epochs=2)
        assert changed(weights, tmp_path / "trial") == set()
        heads.append(last_head(tmp_path / "trial"))
    assert not torch.equal(*heads)
    trained(weights, fold_data, tmp_path / "trial", epochs=3, freeze_epochs=2)
    assert changed(weights, tmp_path / "trial") == {*load_file(weights)}, "then everything learns"


@pytest.mark.parametrize("schedule", ["plateau", "one_cycle"])
def test_a_trial_continued_while_frozen_is_the_same_to_the_bit(
    schedule: str, weights: Path, fold_data: FoldData, tmp_path: Path
) -> None:
    settings = {"epochs": 3, "freeze_epochs": 2, "backbone_lr_mult": 0.1, "schedule": schedule, "ema": 0.9}
    trained(weights, fold_data, tmp_path / "one", **settings)
    for epoch in (1, 2, 3):
        trained(weights, fold_data, tmp_path / "other", until=epoch, **settings)
    one, other = (load_file(tmp_path / name / "best" / "model.safetensors") for name in ("one", "other"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_each_start_is_frozen_again(weights: Path, fold_data: FoldData, tmp_path: Path) -> None:
    """With labels of nobody's making a trial does not leave chance, and starts again."""
    record = trained(weights, fold_data, tmp_path / "trial", epochs=1, freeze_epochs=1, restarts=2, learning_rate=1e-9)
    assert record is not None
    assert (len(record.starts), record.epochs) == (3, 3)
    assert changed(weights, tmp_path / "trial") == set()


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("schedule", ["plateau", "one_cycle"])
def test_the_networks_first_step_is_as_much_smaller_as_its_rate(optimizer: str, schedule: str) -> None:
    """Adam's first step is the learning rate, whatever the gradient."""
    options = {"learning_rate": 0.01, "backbone_lr_mult": 0.1, "optimizer": optimizer, "schedule": schedule}
    settings = TrainingConfig.model_validate({"epochs": 2, **options})
    network = nn.ModuleDict({"backbone": nn.Linear(3, 2), "head": nn.Linear(2, 1)})
    before = [weight.detach().clone() for weight in network.parameters()]
    chosen = build_optimizer(network, settings, network["backbone"])
    scheduled = build_schedule(chosen, settings, 4)
    assert sum(len(group["params"]) for group in chosen.param_groups) == 4
    rate = chosen.param_groups[0]["lr"]
    for weight in network.parameters():
        weight.grad = torch.full_like(weight, 3.0)
    chosen.step()
    steps = [(old - new).abs() for old, new in zip(before, network.parameters(), strict=True)]
    for step, expected in zip(steps, (rate / 10, rate / 10, rate, rate), strict=True):
        torch.testing.assert_close(step, torch.full_like(step, expected), rtol=1e-3, atol=0)
    for _ in range(settings.plateau_patience + 2):
        scheduled.step(1.0) if isinstance(scheduled, ReduceLROnPlateau) else None
    if isinstance(scheduled, OneCycleLR):
        scheduled.step()
    head, backbone = (group["lr"] for group in chosen.param_groups)
    assert head != rate
    assert backbone == pytest.approx(head / 10)


def test_only_a_pretrained_network_is_spared() -> None:
    spared = {"training": {"freeze_epochs": 3, "backbone_lr_mult": 0.1}}
    assert Configuration.model_validate(spared) == Configuration()
    pretrained = Configuration.model_validate(spared | {"model": {"pretrained": {"sha256": "a" * 64}}})
    assert (pretrained.training.freeze_epochs, pretrained.training.backbone_lr_mult) == (3, 0.1)
    assert Configuration.model_validate_json(pretrained.model_dump_json()) == pretrained
