"""Pretraining on volumes without outcome learns, repeats, and continues after any interruption to the same bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from scipy.ndimage import gaussian_filter
from torch import Tensor

from rlvo.config.grid import Grid
from rlvo.config.model import Configuration
from rlvo.config.sections import ResourcesConfig
from rlvo.errors import RlvoError
from rlvo.models.backbones import build_backbone
from rlvo.training.masked import MaskedTask
from rlvo.training.pretraining import Pretraining, Unlabelled, encoder_file, kept_sha256, pretrain
from rlvo.training.records import Retry, read_epochs
from rlvo.training.shortage import OutOfMemoryError, read_retries

GRID = Grid(shape=(16, 14, 12), spacing=(8, 8, 8), origin=(-60, -56, -40))
DENSENET = {"init_features": 4, "growth_rate": 4, "block_config": (1, 1), "stem_kernel": 3}


class InterruptedTrainingError(Exception):
    pass


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Unlabelled:
    """Heads whose intensities vary slowly, so that what is hidden can be told from what is not."""
    rng, store, folders = np.random.default_rng(0), tmp_path_factory.mktemp("store"), []
    for number in range(12):
        (folder := store / str(number)).mkdir()
        smooth = gaussian_filter(rng.normal(size=GRID.shape), 4)
        np.save(folder / "ncct.npy", (35 + 10 * smooth / smooth.std()).astype(np.float16))
        folders.append(folder)
    head = np.zeros(GRID.shape, bool)
    head[1:-1, 1:-1, 1:-1] = True
    return Unlabelled(tuple(folders[:9]), tuple(folders[9:]), head, head, GRID)


def job(seed: int = 1, **training: object) -> Pretraining:
    model = {"backbone": "densenet121", "densenet": DENSENET, "modality": "NCCT", "fusion": "none"}
    settings = {"epochs": 4, "batch_size": 4, "learning_rate": 1e-2, **training}
    settings["augmentation"] = {"flip": 0.5, "shift_voxels": 1, "intensity": 0.1}
    configuration = Configuration.model_validate({"model": model, "training": settings})
    return Pretraining("k" * 64, configuration, seed, ResourcesConfig())


def weights(folder: Path) -> bytes:
    return encoder_file(folder, kept_sha256(folder), ["b", "a"])


def test_it_learns_and_leaves_the_backbones_tensors_under_their_names(data: Unlabelled, tmp_path: Path) -> None:
    task = job(epochs=12, schedule="one_cycle", clip_norm=1.0)
    epochs = pretrain(task, data, tmp_path, device="cpu")
    assert min(epoch["val/loss"] for epoch in epochs) < 0.8
    assert [line["val/loss"] for line in read_epochs(tmp_path)] == [epoch["val/loss"] for epoch in epochs]
    own = build_backbone(task.configuration.model).features.state_dict()
    assert {name: tensor.shape for name, tensor in load(weights(tmp_path)).items()} == {
        name: tensor.shape for name, tensor in own.items()
    }


def test_an_interrupted_pretraining_ends_as_one_that_was_not(data: Unlabelled, tmp_path: Path) -> None:
    def interrupt(epoch: int) -> None:
        if epoch == 3:
            raise InterruptedTrainingError

    pretrain(job(), data, tmp_path / "whole", device="cpu")
    pretrain(job(), data, tmp_path / "cut", device="cpu", until=1)
    with pytest.raises(InterruptedTrainingError):
        pretrain(job(), data, tmp_path / "cut", device="cpu", report=interrupt)
    assert len(read_epochs(tmp_path / "cut")) == 3
    pretrain(job(), data, tmp_path / "cut", device="cpu")
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert (tmp_path / "cut" / "epochs.jsonl").read_text() == (tmp_path / "whole" / "epochs.jsonl").read_text()
    assert len(pretrain(job(), data, tmp_path / "whole", device="cpu")) == 4, "what has ended is read"
    assert weights(tmp_path / "whole") == weights(tmp_path / "cut")

    pretrain(replace(job(), seed=2), data, tmp_path / "other", device="cpu", until=1)
    assert read_epochs(tmp_path / "other")[0] != read_epochs(tmp_path / "whole")[0]


def test_a_loss_that_is_not_finite_is_one_line(data: Unlabelled, tmp_path: Path) -> None:
    with pytest.raises(RlvoError, match=r"the loss became (nan|inf) in epoch \d.*smaller training.learning_rate"):
        pretrain(job(learning_rate=1e30), data, tmp_path, device="cpu")


@pytest.mark.parametrize("fitting", [2, 1, 0])
def test_what_does_not_fit_is_trained_in_smaller_parts(
    data: Unlabelled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fitting: int
) -> None:
    """On a device that holds so many patients in a training step, from the second epoch's first step on."""
    pretrain(job(), data, tmp_path / "cut", device="cpu", until=1)
    in_parts = pretrain(job(micro_batch=max(fitting, 1)), data, tmp_path / "parts", device="cpu", until=1)
    sums = MaskedTask.sums

    def limited(task: MaskedTask, volume: Tensor, *others: Tensor) -> Tensor:
        if task.training and len(volume) > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.40 GiB")
        return sums(task, volume, *others)

    monkeypatch.setattr(MaskedTask, "sums", limited)
    if fitting == 0:
        with pytest.raises(OutOfMemoryError, match="out of GPU memory"):
            pretrain(job(), data, tmp_path / "cut", device="cpu")
        assert len(read_epochs(tmp_path / "cut")) == 1
        return
    epochs = pretrain(job(), data, tmp_path / "cut", device="cpu")
    assert len(epochs) == 4
    again = pretrain(job(), data, tmp_path / "anew", device="cpu", until=1)
    assert read_retries(tmp_path / "cut")[-1] == Retry(epoch=2, micro_batch=fitting)
    assert again[0]["train/loss"] == in_parts[0]["train/loss"] != epochs[0]["train/loss"]
