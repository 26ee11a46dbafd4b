"""The newest sound checkpoint and its best weights are found, whatever else is damaged or half written."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlvo.errors import RlvoError
from rlvo.training.checkpoint import Progress, load_last, save_epoch
from rlvo.training.records import write_epochs


def save(folder: Path, progress: Progress, loss: float) -> None:
    """The next epoch, whose weights are its number."""
    progress.add({"val/loss": loss}, seconds=1.0)
    weights = {"w": torch.full((3,), float(len(progress.epochs)))}
    save_epoch(folder, progress, weights, {"state": {0: torch.ones(2)}}, {"last_epoch": len(progress.epochs)})


def best_epoch(folder: Path) -> float:
    """The epoch that the best weights are from."""
    weights = load_file(folder / "best" / "model.safetensors")["w"]
    assert (weights == weights[0]).all()
    return weights[0].item()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three epochs, the second the best."""
    progress = Progress("trial")
    for loss in (0.7, 0.5, 0.6):
        save(tmp_path, progress, loss)
    return tmp_path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def test_last_and_best(folder: Path) -> None:
    checkpoint = load_last(folder)
    assert len(checkpoint.progress.epochs) == 3
    assert checkpoint.progress.best_epoch == 2
    assert checkpoint.progress.best == {"val/loss": 0.5}
    assert checkpoint.progress.seconds == 3.0
    assert checkpoint.schedule == {"last_epoch": 3}
    assert torch.equal(checkpoint.weights["w"], torch.full((3,), 3.0))
    assert best_epoch(folder) == 2


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "manifest.json"])
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    truncate(folder / "last" / name)
    with caplog.at_level(logging.WARNING):
        checkpoint = load_last(folder)
    assert len(checkpoint.progress.epochs) == 2
    assert "damaged" in caplog.text


def test_two_damaged_checkpoints_are_an_error(folder: Path) -> None:
    truncate(folder / "last" / "state.pt")
    (folder / "previous" / "model.safetensors").unlink()
    with pytest.raises(RlvoError, match="delete the trial's folder"):
        load_last(folder)


def test_damaged_best_weights_are_written_again_from_a_checkpoint_that_holds_them(folder: Path) -> None:
    truncate(folder / "best" / "model.safetensors")
    assert len(load_last(folder).progress.epochs) == 3
    assert best_epoch(folder) == 2


def test_damaged_best_weights_that_no_checkpoint_holds_are_an_error(folder: Path) -> None:
    save(folder, load_last(folder).progress, 0.8)
    truncate(folder / "best" / "model.safetensors")
    with pytest.raises(RlvoError, match="missing or altered"):
        load_last(folder)


def test_the_checkpoint_before_the_last_keeps_its_best_weights(folder: Path) -> None:
    save(folder, load_last(folder).progress, 0.4)  # the fourth is the best, and damaged: the second is the best again
    truncate(folder / "last" / "state.pt")
    assert load_last(folder).progress.best_epoch == 2
    assert best_epoch(folder) == 2


def test_a_damaged_checkpoint_never_replaces_a_sound_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is set aside, so that the next save, whenever it dies, leaves the sound one."""
    truncate(folder / "last" / "state.pt")
    progress = load_last(folder).progress
    assert (folder / "damaged" / "state.pt").exists()
    monkeypatch.setattr("pathlib.Path.rename", lambda *_: pytest.fail("a death before anything is moved"))
    with pytest.raises(pytest.fail.Exception):
        save(folder, progress, 0.6)
    assert len(load_last(folder).progress.epochs) == 2


@pytest.mark.parametrize("left", ["best", "epochs.jsonl"])
def test_a_trial_whose_checkpoints_are_gone_is_not_started_again(folder: Path, left: str) -> None:
    write_epochs(folder, [{"val/loss": 0.7}])
    for path in {"last", "previous", "best"} - {left}:
        shutil.rmtree(folder / path)
    if left == "best":
        (folder / "epochs.jsonl").unlink()
    with pytest.raises(RlvoError, match="missing or altered"):
        load_last(folder)


def test_what_an_interrupted_save_left_is_removed(folder: Path) -> None:
    (folder / "new-abc").mkdir()
    (folder / "new-abc" / "state.pt").write_bytes(b"half")
    save(folder, load_last(folder).progress, 0.6)
    assert {path.name for path in folder.iterdir()} == {"last", "previous", "best"}


def test_best_weights_that_a_death_left_unwritten_are_written_again(tmp_path: Path) -> None:
    assert load_last(tmp_path) is None
    progress = Progress("trial")
    save(tmp_path, progress, 0.7)
    stale = (tmp_path / "best" / "model.safetensors").read_bytes()
    save(tmp_path, progress, 0.5)
    (tmp_path / "best" / "model.safetensors").write_bytes(stale)
    assert load_last(tmp_path).progress.best_epoch == 2
    assert best_epoch(tmp_path) == 2


def test_a_death_between_the_two_moves_loses_nothing(folder: Path) -> None:
    """`last` was moved away and the new checkpoint not yet moved in."""
    (folder / "previous").rename(folder / "older")
    (folder / "last").rename(folder / "previous")
    assert len(load_last(folder).progress.epochs) == 3
