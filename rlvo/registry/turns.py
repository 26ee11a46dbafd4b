"""Whose turn it is at the model, which answers one request at a time."""

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic as now
from typing import Any

SECONDS_PER_ROW = 1.0
"""A request counts as having come this much later for each of its rows: whoever asks for one patient passes those who
ask for many, and nobody is passed by those who come long after."""


@dataclass(frozen=True, order=True)
class _Turn:
    key: float
    number: int
    work: Callable[[], Any] = field(compare=False)
    future: "Future[Any]" = field(compare=False)


class Turns:
    """A thread that does one piece of work at a time, the one whose turn it is."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._waiting: list[_Turn] = []
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    def submit(self, work: Callable[[], Any], rows: int) -> "Future[Any]":
        """Let `work`, for so many rows, wait for its turn, which it loses if the result is cancelled before."""
        future: Future[Any] = Future()
        with self._lock:
            key = now() + rows * SECONDS_PER_ROW
            heapq.heappush(self._waiting, _Turn(key, next(self._numbers), work, future))
        self._thread.submit(self._next)
        return future

    def _next(self) -> None:
        with self._lock:
            turn = heapq.heappop(self._waiting)
        if not turn.future.set_running_or_notify_cancel():
            return
        try:
            turn.future.set_result(turn.work())
        except BaseException as error:  # noqa: BLE001 - whoever waits for the result is told
            turn.future.set_exception(error)
