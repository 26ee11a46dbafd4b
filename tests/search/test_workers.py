"""A search whose rung waits for its last trial goes on in the processes it has."""

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune.search import Searcher

from rlvo.search.workers import KeepWorkers

AT_ONCE = 2


class Rungs(Searcher):
    """Two trials at a time; the next two come once both have ended."""

    def __init__(self, folder: Path, *, kills: bool) -> None:
        super().__init__()
        self.folder, self.kills, self.suggested, self.running = folder, kills, 0, set[str]()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.suggested == 3 * AT_ONCE:
            return str(Searcher.FINISHED)
        if self.suggested % AT_ONCE == 0 and self.running:
            return None
        rung, place = divmod(self.suggested, AT_ONCE)
        self.suggested += 1
        self.running.add(trial_id)
        return {"rung": str(self.folder / f"rung{rung}"), "place": place}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Kill, if asked to, the worker that waits for the second rung."""
        self.running.remove(trial_id)
        if self.kills and result is not None and self.suggested == AT_ONCE and self.running:
            os.kill(result["process"], signal.SIGKILL)

    def save(self, checkpoint_path: str) -> None:
        """Nothing."""


def train(trial: dict[str, Any]) -> dict[str, int]:
    """Wait for the other trial of the rung, so that each has a process; one of them ends later."""
    (rung := Path(trial["rung"])).mkdir(exist_ok=True)
    (rung / str(trial["place"])).touch()
    while len(list(rung.iterdir())) < AT_ONCE:
        time.sleep(0.02)
    time.sleep(0.5 * trial["place"])
    return {"process": os.getpid()}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("kills", "idle_seconds", "needed"),
    [(False, math.inf, AT_ONCE), (True, math.inf, AT_ONCE + 1), (False, 0.0, 3 * AT_ONCE)],
    ids=["kept", "killed", "released"],
)
def test_workers_wait_for_the_next_rung(tmp_path: Path, *, kills: bool, idle_seconds: float, needed: int) -> None:
    found = tune.run(
        tune.with_resources(train, {"cpu": 1}),
        storage_path=str(tmp_path / "tune"),
        search_alg=Rungs(tmp_path, kills=kills),
        scheduler=KeepWorkers(idle_seconds=idle_seconds),
        num_samples=-1,
        max_concurrent_trials=AT_ONCE,
        reuse_actors=True,
        verbose=0,
    )
    processes = [trial.last_result["process"] for trial in found.trials]
    assert len(processes) == 3 * AT_ONCE
    assert len(set(processes)) == needed
