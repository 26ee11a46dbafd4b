"""Where a search stands, for Ray's dashboard and Prometheus: counts and one figure, nothing about patients."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import get_args

import ray
from ray.util.client import ray as client
from ray.util.metrics import Gauge

from rlvo.study.state import State, StudyState

WINDOW_SECONDS = 60.0
"""Over so long the pace is taken."""


class LiveMetrics:
    """Gauges of one study, which every node's metrics agent exports (Ray puts `ray_` before their names).

    `rlvo_trials` by `state`; `rlvo_best_objective`, once a configuration has finished; `rlvo_epochs_per_second`, over
    the last minute and all trials. Each has the tag `study`.

    Args:
        study: its name.
    """

    def __init__(self, study: str) -> None:
        self._tags = {"study": study}
        self._gauges: tuple[Gauge, Gauge, Gauge] | None = None
        self._counted = deque[tuple[float, int]]()
        """When, and how many epochs had ended by then."""

    def show(self, state: StudyState) -> None:
        """Set the gauges; nothing happens without Ray, or through its client, which has no agent."""
        if not ray.is_initialized() or client.is_connected():
            return
        trials, best, pace = self._gauges = self._gauges or _gauges()
        counts = Counter(trial.state for each in state.configurations for trial in each.trials)
        counts["waiting"] += max(state.trials_total - counts.total(), 0)  # those that are yet to be proposed
        for name in get_args(State):
            trials.set(counts[name], {**self._tags, "state": name})
        if state.best is not None:
            best.set(state.best.objective, self._tags)
        pace.set(self._epochs_per_second(state), self._tags)

    def _epochs_per_second(self, state: StudyState) -> float:
        now = time.monotonic(), sum(trial.epoch for each in state.configurations for trial in each.trials)
        self._counted.append(now)
        while now[0] - self._counted[0][0] > WINDOW_SECONDS:
            self._counted.popleft()
        seconds, epochs = now[0] - self._counted[0][0], now[1] - self._counted[0][1]
        return epochs / seconds if seconds > 0 else 0.0


def _gauges() -> tuple[Gauge, Gauge, Gauge]:
    return (
        Gauge("rlvo_trials", "Trials of a study by state.", ("study", "state")),
        Gauge("rlvo_best_objective", "Mean val/auc over folds of a study's best configuration.", ("study",)),
        Gauge("rlvo_epochs_per_second", "Epochs that all trials of a study finish per second.", ("study",)),
    )
