"""The newest sound checkpoint and its best weights are found, whatever else is damaged or half written."""

import logging
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rlvo.errors import RlvoError
from rlvo.training.checkpoint import MOST_SECONDS, WORTH, Progress, Saver, load_last, load_progress, save_epoch
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


def test_how_far_a_trial_has_got_is_read_without_its_weights(folder: Path) -> None:
    """What is pruned needs no more, and weights and optimiser are hundreds of MB."""
    assert load_progress(folder / "not-there") is None
    progress = load_last(folder).progress
    (folder / "new-abc").mkdir()
    (folder / "last" / "model.safetensors").unlink()
    assert load_progress(folder) == progress
    assert {path.name for path in folder.iterdir()} == {"last", "previous", "best"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-5],
        lambda content: bytes(len(content)),
        lambda content: content.replace(b"val/loss", b"val/lose"),  # it can still be unpickled
    ],
)
def test_how_far_a_trial_has_got_is_told_by_the_checkpoint_before_a_damaged_one(
    folder: Path, damage: Callable[[bytes], bytes]
) -> None:
    state = folder / "last" / "state.pt"
    state.write_bytes(damage(state.read_bytes()))
    progress = load_progress(folder)
    assert progress is not None
    assert progress.epochs == [{"val/loss": 0.7}, {"val/loss": 0.5}]
    shutil.rmtree(folder / "last", ignore_errors=True)
    shutil.rmtree(folder / "previous")
    with pytest.raises(RlvoError, match="missing or altered"):
        load_progress(folder)


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


class Slow:
    """A trial whose clock is ours: each epoch and each save takes so many seconds."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, epoch: float, save: float, writes: bool = True
    ) -> None:
        self.folder, self._epoch, self._save, self._writes = folder, epoch, save, writes
        self.now, self.saved, self.lost = 1000.0, list[int](), list[float]()
        monkeypatch.setattr("rlvo.training.checkpoint.time.monotonic", lambda: self.now)
        monkeypatch.setattr("rlvo.training.checkpoint.save_epoch", self._saving)
        self.start()

    def start(self) -> None:
        checkpoint = load_last(self.folder)
        self.progress = Progress("trial") if checkpoint is None else checkpoint.progress
        self._module, schedule = nn.Linear(1, 1), nn.Linear(1, 1)
        self.saver = Saver(self.folder, self.progress, self._module, nn.Linear(1, 1), schedule)

    def _saving(self, folder: Path, progress: Progress, *state: dict, **best: dict) -> None:
        self.now += self._save
        self.saved.append(len(progress.epochs))
        if self._writes:
            save_epoch(folder, progress, *state, **best)

    def train(self, losses: Sequence[float], *, last: bool = False) -> None:
        """Epochs with these validation losses, after each of which the weights are its number."""
        for loss in losses:
            self.now += self._epoch
            self.progress.add({"val/loss": loss}, seconds=self._epoch)
            nn.init.constant_(self._module.weight, len(self.progress.epochs))
            self.saver.after_epoch(at_once=last)

    def best(self) -> float:
        return load_file(self.folder / "best" / "model.safetensors")["weight"].item()


def test_checkpoints_are_saved_when_they_are_worth_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Slow(tmp_path, monkeypatch, epoch=0.25, save=0.0625, writes=False)
    trial.train([1.0] * 100)
    assert trial.saved == list(range(1, 101, math.ceil(WORTH * 0.0625 / 0.25)))


@pytest.mark.parametrize(
    ("epoch", "save", "apart"),
    [
        (7.0, 5.0, 8),
        (20.0, 5.0, 3),
        (0.5, 8.0, 120),
        (45.0, 0.1, 1),
        (45.0, 20.0, 1),
        (500.0, 0.1, 1),
        (500.0, 30.0, 1),
    ],
)
def test_a_death_undoes_a_minute_at_most_or_one_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: float, save: float, apart: int
) -> None:
    trial = Slow(tmp_path, monkeypatch, epoch=epoch, save=save, writes=False)
    trial.train([1.0] * (4 * apart))
    assert trial.saved == [1, 1 + apart, 1 + 2 * apart, 1 + 3 * apart]
    assert apart * epoch <= max(MOST_SECONDS, epoch)


def test_the_best_weights_are_kept_until_they_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Slow(tmp_path, monkeypatch, epoch=0.1, save=1.0)
    trial.train([0.9, 0.8, 0.5, 0.6])
    assert trial.best() == 1
    trial.train([0.7], last=True)
    assert trial.saved == [1, 5]
    assert (trial.progress.best_epoch, trial.best()) == (3, 3)
    truncate(tmp_path / "last" / "state.pt")  # the checkpoint before has its own best weights still
    assert load_last(tmp_path).progress.best_epoch == 1
    assert trial.best() == 1


def test_a_trial_that_starts_again_has_the_best_weights_it_had_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Slow(tmp_path, monkeypatch, epoch=0.1, save=1.0)
    trial.train([0.9, 0.5])
    trial.start()  # epoch 2 was not saved
    trial.train([0.95, 0.96, 0.97], last=True)
    assert (trial.progress.best_epoch, trial.best()) == (1, 1)


def test_nothing_is_saved_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Slow(tmp_path, monkeypatch, epoch=1.0, save=1.0)
    trial.saver.save()
    trial.train([0.9])
    trial.saver.save()
    trial.train([0.8])
    trial.saver.save()
    trial.saver.save()
    assert trial.saved == [1, 2]


def test_the_first_of_equal_epochs_is_kept_unless_it_is_the_last_one() -> None:
    epochs = [{"val/loss": loss, "val/auc": auc} for loss, auc in ((0.6, 0.5), (0.5, 0.7), (0.5, 0.7), (0.9, 0.6))]
    for by, expected in (("loss", 2), ("auc", 2), ("last", 4)):
        progress = Progress("trial")
        for epoch in epochs:
            progress.add(epoch, seconds=1.0, by=by)
        assert progress.best_epoch == expected
