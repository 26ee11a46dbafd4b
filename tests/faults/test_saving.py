"""Deaths and full disks during a save: the checkpoint before it, or the new one, is there every time."""

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.victim import fill

from rlvo.training.checkpoint import Checkpoint, Progress, load_last, save_epoch

Limited = Callable[[Path, int], AbstractContextManager[None]]


def loss(epoch: int) -> float:
    return random.Random(epoch).random()


def save(folder: Path, progress: Progress) -> None:
    """The next epoch, whose weights are its number."""
    epoch = len(progress.epochs) + 1
    progress.add({"val/loss": loss(epoch)}, seconds=1.0)
    weights = {"w": torch.full((50_000,), float(epoch))}
    save_epoch(folder, progress, weights, {"state": {0: torch.full((30_000,), float(epoch))}}, {"last_epoch": epoch})


def check(folder: Path, checkpoint: Checkpoint | None) -> int:
    """That a checkpoint is of one epoch in all its parts, with the best weights it means; the epoch."""
    assert checkpoint is not None
    epoch = len(checkpoint.progress.epochs)
    best = 1 + min(range(epoch), key=lambda number: loss(number + 1))
    assert [metrics["val/loss"] for metrics in checkpoint.progress.epochs] == [loss(n + 1) for n in range(epoch)]
    assert (checkpoint.weights["w"] == epoch).all()
    assert (checkpoint.optimizer["state"][0] == epoch).all()
    assert checkpoint.schedule == {"last_epoch": epoch}
    assert checkpoint.progress.best_epoch == best
    assert (load_file(folder / "best" / "model.safetensors")["w"] == best).all()
    return epoch


def saving_for_ever(folder: Path, progress: Progress) -> tuple[int, int]:
    """A process that saves epoch after epoch. Returns its id, and a pipe that gets a byte for each that is saved."""
    told, tell = os.pipe()
    if child := os.fork():
        os.close(tell)
        return child, told
    try:
        while True:
            save(folder, progress)
            os.write(tell, b".")
    finally:
        os._exit(1)


def test_killed_during_a_save(tmp_path: Path, rounds: int) -> None:
    moments, progress, halfway = random.Random(0), Progress("trial"), 0
    save(tmp_path, progress)
    for _ in range(100 * rounds):
        child, told = saving_for_ever(tmp_path, progress)
        time.sleep(moments.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        saved = len(progress.epochs) + len(os.read(told, 1000))
        os.close(told)
        halfway += any(tmp_path.glob("new-*"))
        checkpoint = load_last(tmp_path)
        epoch = check(tmp_path, checkpoint)
        assert saved <= epoch <= saved + 1  # what was saved is there, and at most the one under way
        progress = checkpoint.progress
    assert halfway > 20 * rounds


def test_two_processes_that_save_the_same_trial(tmp_path: Path, rounds: int) -> None:
    """As for a moment after the trial was moved to another node, while its process on the lost one still runs."""
    moments, progress = random.Random(0), Progress("trial")
    save(tmp_path, progress)
    for _ in range(20 * rounds):
        children = [saving_for_ever(tmp_path, progress) for _ in range(2)]
        time.sleep(moments.uniform(0, 0.2))
        for child, told in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(told)
        checkpoint = load_last(tmp_path)
        check(tmp_path, checkpoint)
        progress = checkpoint.progress
    assert len(progress.epochs) > 5 * rounds


@contextmanager
def short_files(folder: Path, size: int) -> Iterator[None]:
    """No file may be larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def little_room(folder: Path, size: int) -> Iterator[None]:
    """No more fits on the folder's disk."""
    filler = fill(folder.parent, leave=size)
    try:
        yield
    finally:
        filler.unlink()


def save_where_it_often_fails(folder: Path, limited: Limited, largest: int, rounds: int) -> None:
    sizes, progress, failed = random.Random(0), Progress("trial"), 0
    save(folder, progress)
    for _ in range(30 * rounds):
        try:
            with limited(folder, sizes.randrange(largest)):
                save(folder, progress)
        except OSError:
            failed += 1
        before, progress = len(progress.epochs), load_last(folder).progress
        assert check(folder, load_last(folder)) in (before - 1, before)
    assert 0 < failed < 30 * rounds


def test_files_that_end_early(tmp_path: Path, rounds: int) -> None:
    save_where_it_often_fails(tmp_path, short_files, 250_000, rounds)


def test_a_full_disk(small_disk: Callable[[Path, str], None], tmp_path: Path, rounds: int) -> None:
    small_disk(tmp_path / "disk", "4m")
    save_where_it_often_fails(tmp_path / "disk" / "trial", little_room, 700_000, rounds)


@pytest.mark.parametrize("size", [0, 1000])
def test_a_disk_that_is_full_from_the_start_leaves_nothing_half_made(tmp_path: Path, size: int) -> None:
    with short_files(tmp_path, size), pytest.raises(OSError, match="too large"):
        save(tmp_path, Progress("trial"))
    assert list(tmp_path.iterdir()) == []
    assert load_last(tmp_path) is None
