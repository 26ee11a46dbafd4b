"""The box of a crop in training: it lies elsewhere in each epoch, the same in each run, and at its place otherwise."""

import dataclasses
from pathlib import Path

import pytest
import torch
from support.networks import narrow
from torch import Tensor

from rlvo.config.grid import Grid
from rlvo.config.model import BackboneName, Configuration
from rlvo.config.training import AugmentationConfig, TrainingConfig
from rlvo.errors import RlvoError
from rlvo.models.crop import Crop
from rlvo.training.dataset import FoldData
from rlvo.training.fit import fit
from rlvo.training.records import TrialIdentity

GRID = Grid(shape=(16, 14, 12), spacing=(10, 10, 10), origin=(-75, -65, -65))


@pytest.fixture
def data(fold_data: FoldData) -> FoldData:
    return dataclasses.replace(fold_data, grid=GRID)


def train(
    data: FoldData, folder: Path, shift_mm: float, until: int | None = None, backbone: BackboneName = "resnet18"
) -> None:
    augmentation = AugmentationConfig(crop_shift_mm=shift_mm)
    training = TrainingConfig(epochs=2, batch_size=4, learning_rate=1e-3, augmentation=augmentation)
    configuration = Configuration(model=narrow(backbone, crop="vessels"), training=training)
    identity = TrialIdentity(study="t", configuration="same", fold=0, split_hash="a", data_hash="b")
    fit(configuration, data, folder, identity, seed=1, device="cpu", threads=1, until=until)


def test_the_box_lies_elsewhere_in_each_epoch_of_training(
    data: FoldData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, seen = Crop.cut, list[tuple[bool, Tensor | None]]()

    def watched(crop: Crop, volume: Tensor, tabular: Tensor | None = None, moves: Tensor | None = None) -> Tensor:
        seen.append((crop.training, moves))
        return cut(crop, volume, tabular, moves)

    def moves_of_training() -> Tensor:
        assert all((moves is not None) == training for training, moves in seen)
        moves = torch.cat([each for _, each in seen if each is not None])
        seen.clear()
        return moves

    monkeypatch.setattr(Crop, "cut", watched)
    train(data, tmp_path / "whole", 25)
    whole = moves_of_training()
    assert whole.shape == (2 * 23, 3)
    assert set(whole.unique().tolist()) <= {-3, -2, -1, 0, 1, 2, 3}
    assert not torch.equal(whole[:23], whole[23:])
    train(data, tmp_path / "parts", 25, until=1)
    train(data, tmp_path / "parts", 25)
    assert torch.equal(moves_of_training(), whole), "an interrupted trial draws the same"
    train(data, tmp_path / "still", 0)
    assert all(moves is None for _, moves in seen)


def test_what_cannot_be_cropped_is_refused(data: FoldData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs the grid"):
        train(dataclasses.replace(data, grid=None), tmp_path / "a", 4)
    coarse = GRID.model_copy(update={"spacing": (80, 80, 80), "origin": (-600, -520, -440)})
    with pytest.raises(RlvoError, match=r"model\.crop: vessels gives 2×1×1 voxels") as caught:
        train(dataclasses.replace(data, grid=coarse), tmp_path / "b", 4, backbone="densenet121")
    assert caught.value.fix is not None
    assert "larger grid" not in caught.value.fix
