"""A search whose driver or workers die, or whose disk is full, continues: nothing that had ended is lost or runs again,
and the result is the same."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from support.victim import (
    ARTIFACTS,
    EPOCH_COUNT,
    TRIALS,
    Victim,
    check_mlflow,
    check_same,
    check_whole,
    fill,
    is_training,
    kill,
    wait_for,
)

pytestmark = pytest.mark.timeout(1800)

TERMINATIONS = 10


@pytest.fixture
def orphans() -> Iterator[list[psutil.Process]]:
    """What killed drivers leave: workers end by themselves, two of Ray's agents do not."""
    processes: list[psutil.Process] = []
    yield processes
    for process in processes:
        if process.is_running():
            process.kill()


def agree(some: list[str], others: list[str]) -> bool:
    """Whether epochs that both have are the same; those after a checkpoint are trained again."""
    return all(one == other for one, other in zip(some, others, strict=False))


def test_the_driver_killed_at_random_moments(
    undisturbed: Victim, orphans: list[psutil.Process], tmp_path: Path, rounds: int, moments: random.Random
) -> None:
    victim, kills = undisturbed.beside(tmp_path), 5 * rounds
    ended, epochs = {}, {}
    for number in range(kills):
        process = victim.start()
        if number == 0:
            time.sleep(moments.uniform(0, 10))
        else:
            wanted = sum(map(len, epochs.values())) + moments.randint(1, TRIALS * EPOCH_COUNT // kills)
            wait_for(lambda wanted=wanted: victim.epoch_count() >= wanted, process)
            time.sleep(moments.uniform(0, 0.3))
        orphans += kill(process)
        now = victim.epochs()
        assert all(agree(now[trial], lines) for trial, lines in epochs.items())
        assert all(victim.ended()[trial] == files for trial, files in ended.items())
        ended, epochs = victim.ended(), now
    victim.finish()
    assert not any(is_training(orphan) for orphan in orphans)
    assert all(victim.ended()[trial] == files for trial, files in ended.items())
    check_same(victim, undisturbed)
    check_mlflow(victim, victim.database)


def open_runs(victim: Victim) -> int:
    """How many of its runs MLflow shows as running."""
    client = MlflowClient(victim.database)
    experiment = client.get_experiment_by_name(victim.name)
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return sum(run.info.status == "RUNNING" for run in runs)


def test_the_driver_terminated_at_random_moments(undisturbed: Victim, tmp_path: Path, moments: random.Random) -> None:
    """Every second time while it starts or soon after, and half the times with all processes that it has started."""
    victim, epochs, codes = undisturbed.beside(tmp_path), {}, []
    for number in range(TERMINATIONS):
        process = victim.start()
        if number % 2:
            deadline = time.monotonic() + moments.uniform(0, 15)
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
        else:
            wanted = sum(map(len, epochs.values())) + moments.randint(1, TRIALS * EPOCH_COUNT // TERMINATIONS)
            wait_for(lambda wanted=wanted: victim.epoch_count() >= wanted, process)
        if number % 4 < 2:
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGTERM)
        code, said = victim.wait(process)
        codes.append(code)
        print("SIGTERM", number, "code", code)
        assert code in (143, -signal.SIGTERM), said  # -15: before any code of ours, or after all of it
        assert "Traceback" not in said
        if code == 143:
            assert said.splitlines()[-1] == "interrupted: run the same command again to continue"
            assert open_runs(victim) == 0
        now = victim.epochs()
        assert all(agree(now[trial], lines) for trial, lines in epochs.items())
        epochs = now
    assert 143 in codes
    victim.finish()
    check_whole(victim, undisturbed)


def test_the_driver_killed_during_the_last_sync(undisturbed: Victim, tmp_path: Path, moments: random.Random) -> None:
    """Every trial has ended, and MLflow has nothing of them yet, as after a search through which it was away."""
    victim = undisturbed.beside(tmp_path, copied=True)

    def artifacts() -> int:
        return sum(path.is_file() for path in victim.work.glob("mlflow-artifacts/*/artifacts/**/*"))

    for wanted in sorted(moments.sample(range(1, TRIALS * len(ARTIFACTS)), 3)):
        process = victim.start()
        wait_for(lambda wanted=wanted: artifacts() >= wanted, process)
        kill(process)
    victim.finish()
    check_whole(victim, undisturbed)


def test_workers_killed(undisturbed: Victim, tmp_path: Path, rounds: int, moments: random.Random) -> None:
    victim = undisturbed.beside(tmp_path)
    process = victim.start()
    for epoch in range(20, 20 + 20 * rounds, 20):
        wait_for(lambda epoch=epoch: victim.epoch_count() >= epoch, process)
        workers = [child for child in psutil.Process(process.pid).children(recursive=True) if is_training(child)]
        before = victim.epochs()
        moments.choice(workers).kill()
    code, said = victim.wait(process)
    assert code == 0, said
    assert all(agree(victim.epochs()[trial], lines) for trial, lines in before.items())
    check_same(victim, undisturbed)


def test_the_disk_full_during_a_search(
    undisturbed: Victim, small_disk: Callable[[Path, str], None], tmp_path: Path
) -> None:
    small_disk(tmp_path / "work", "100m")
    victim = undisturbed.beside(tmp_path)
    process = victim.start()
    wait_for(lambda: victim.epoch_count() >= EPOCH_COUNT * TRIALS // 2, process)
    filler = fill(victim.work)
    code, said = victim.wait(process)
    assert code == 1, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"error: {victim.folder}"), said
    assert "the disk is full. Free some space" in said.splitlines()[-1]
    ended, epochs = victim.ended(), victim.epochs()
    filler.unlink()
    victim.finish()
    assert all(victim.ended()[trial] == files for trial, files in ended.items())
    assert all(victim.epochs()[trial][: len(lines)] == lines for trial, lines in epochs.items())
    check_same(victim, undisturbed)
    check_mlflow(victim, victim.database)
