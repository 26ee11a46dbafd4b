"""Workers that wait for the next rung instead of ending."""

from typing import Any

import ray
from ray.exceptions import RayError
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.utils.object_cache import _ObjectCache

ANSWER_SECONDS = 10.0
"""A worker that waits for a trial answers at once if it lives."""


class KeepWorkers(FIFOScheduler):  # type: ignore[misc]
    """Starts trials in the order they come, and keeps the workers that have none while the searcher may have more.

    Tune ends all of them but one. If a rung waits for its last trial, the workers of the others would end, and what
    comes after the rung would wait for new ones, which import torch first. Tune offers no setting for that, so its
    cache of workers is replaced. Tune still empties it once the searcher has finished.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        controller = tune_controller._tune_controller
        if not isinstance(controller._actor_cache, _Workers):
            controller._actor_cache = _Workers(controller)
        return super().choose_trial_to_run(tune_controller)


class _Workers(_ObjectCache):  # type: ignore[misc]
    """Keeps every worker until it is told to give up all of them, or the worker has died."""

    def __init__(self, controller: Any) -> None:
        super().__init__()
        self._controller = controller

    def cache_object(self, key: Any, obj: Any) -> bool:
        self._cached_objects[key].append(obj)
        self._num_cached_objects += 1
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
        self._num_cached_objects -= 1
        return self._cached_objects[key].pop(0)

    def flush_cached_objects(self, force_all: bool = False) -> Any:
        return super().flush_cached_objects(force_all=True) if force_all else iter(())

    def _lives(self, worker: Any) -> bool:
        actor, _ = self._controller._actor_manager._live_actors_to_ray_actors_resources[worker]
        try:
            ray.get(actor.__ray_ready__.remote(), timeout=ANSWER_SECONDS)
        except RayError:
            return False
        return True
