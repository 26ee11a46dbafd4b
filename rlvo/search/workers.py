"""What Tune asks a cluster for, and workers that wait for the next rung instead of ending."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.utils.object_cache import _ObjectCache

ANSWER_SECONDS = 10.0
"""A worker that waits for a trial answers at once if it lives."""
IDLE_SECONDS = 60.0
"""On a cluster, a worker without a trial is kept for so long: while it waits, its node cannot be taken away."""
ASKED_FOR = 200
"""Trials that a cluster is asked for at once, at most; as many as Tune asks for where it chooses them itself."""
PENDING = "TUNE_MAX_PENDING_TRIALS_PG"


@contextmanager
def asking_for_all(*, of_cluster: bool) -> Iterator[None]:
    """Let Tune ask a cluster for all trials that can start: asked for one, an autoscaler starts one node.

    On one machine, which does not grow, it asks for the next one only. Whatever the environment says counts more.
    """
    if not of_cluster or PENDING in os.environ:
        yield
        return
    os.environ[PENDING] = str(ASKED_FOR)
    try:
        yield
    finally:
        del os.environ[PENDING]


class KeepWorkers(FIFOScheduler):  # type: ignore[misc]
    """Starts trials in the order they come, and keeps the workers that have none while the searcher may have more.

    Tune ends all of them but one. If a rung waits for its last trial, the workers of the others would end, and what
    comes after the rung would wait for new ones, which import torch first. Tune offers no setting for that, so its
    cache of workers is replaced. Tune still empties it once the searcher has finished.

    Args:
        is_needless: whether a trial (its id in Tune) that waits to be started need not be.
        idle_seconds: so long a worker without a trial is kept.
    """

    def __init__(
        self, is_needless: Callable[[str], bool] = lambda trial_id: False, idle_seconds: float = math.inf
    ) -> None:
        super().__init__()
        self._is_needless, self._idle_seconds = is_needless, idle_seconds

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        controller = tune_controller._tune_controller
        if not isinstance(controller._actor_cache, _Workers):
            controller._actor_cache = _Workers(controller, self._idle_seconds)
        for trial in controller._pending_trials - controller._resetting_trials:
            if self._is_needless(trial.trial_id):
                controller.stop_trial(trial)
                if trial in controller._staged_trials:
                    controller._unstage_trial_with_resources(trial)
        return super().choose_trial_to_run(tune_controller)


class _Workers(_ObjectCache):  # type: ignore[misc]
    """Keeps a worker until it is told to give up all of them, or the worker has died, or waited too long."""

    def __init__(self, controller: Any, idle_seconds: float) -> None:
        super().__init__()
        self._controller, self._idle_seconds = controller, idle_seconds
        self._since: dict[Any, float] = {}
        """When each worker was left without a trial."""

    def cache_object(self, key: Any, obj: Any) -> bool:
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
        self._since[obj] = time.monotonic()
        return True

    def has_cached_object(self, key: Any) -> bool:
        """Whether a worker is left that still lives: a trial that got a dead one would fail."""
        while waiting := self._cached_objects[key]:
            if self._lives(waiting[0]):
                return True
            dead = self.pop_cached_object(key, check=False)
            dead.set_on_stop(None)
            dead.set_on_error(None)
            self._controller._remove_actor(tracked_actor=dead)
        return False

    def pop_cached_object(self, key: Any, *, check: bool = True) -> Any:
        if check and not self.has_cached_object(key):
            return None
        return self._give_up(key)

    def flush_cached_objects(self, force_all: bool = False) -> Iterator[Any]:
        """Give up all workers, or those that have waited too long."""
        latest = math.inf if force_all else time.monotonic() - self._idle_seconds
        for key, waiting in self._cached_objects.items():
            while waiting and self._since[waiting[0]] <= latest:  # the first has waited longest
                yield self._give_up(key)

    def _give_up(self, key: Any) -> Any:
        self._num_cached_objects -= 1
        worker = self._cached_objects[key].pop(0)
        del self._since[worker]
        return worker

    def _lives(self, worker: Any) -> bool:
        actor, _ = self._controller._actor_manager._live_actors_to_ray_actors_resources[worker]
        try:
            ray.get(actor.__ray_ready__.remote(), timeout=ANSWER_SECONDS)
        except RayError:
            return False
        return True
