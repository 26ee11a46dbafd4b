"""The model's process and the server's: whose turn it is, and what they say to each other through a pipe.

Python runs one thread of a process at a time: in one process every byte that a stranger sends would wait for the
model, and the model for it.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import StringIO
from multiprocessing.connection import Connection
from time import monotonic as now
from typing import Any

from mlflow.pyfunc import scoring_server
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from rlvo.registry.served_model import ServedModel

SECONDS_PER_ROW = 1.0
"""A request counts as having come this much later for each of its rows: whoever asks for one patient passes those who
ask for many, and nobody is passed by those who come long after."""

PAUSE_PER_ROW = 0.005
"""Seconds that a table waits for each further row before it is begun, at least: those who ask for much and leave at
once cost nothing. Each row takes many times as long."""


@dataclass(frozen=True)
class Answer:
    """The body of an answer, and how many of its patients could be scored, and could not."""

    text: str
    scored: int
    unscored: int


@dataclass(frozen=True, order=True)
class _Turn:
    key: float
    number: int
    not_before: float = field(compare=False)
    body: bytes = field(compare=False)
    is_gone: Callable[[], bool] = field(compare=False)
    answer: "asyncio.Future[Answer]" = field(compare=False)


class ModelProcess:
    """The server's end of the pipe: one request at a time to the model. For the event loop's thread."""

    def __init__(self, pipe: "Connection[Any, Any]") -> None:
        self._pipe = pipe
        self._numbers = itertools.count()
        self._waiting: list[_Turn] = []
        self._present: _Turn | None = None
        self._pause: asyncio.TimerHandle | None = None

    async def answer(self, body: bytes, rows: int, is_gone: Callable[[], bool]) -> Answer:
        """As `ServedModel.answer`, when it is the turn of a request for so many rows; if cancelled, it is over.

        Raises:
            ClientDisconnect: the caller has left.
            HTTPException: as `ServedModel.answer`; 500 also if the model's process has ended.
        """
        loop = asyncio.get_running_loop()
        came, number = now(), next(self._numbers)
        if number == 0:
            loop.add_reader(self._pipe.fileno(), self._receive)
        key, not_before = came + rows * SECONDS_PER_ROW, came + max(0, rows - 1) * PAUSE_PER_ROW
        turn = _Turn(key, number, not_before, body, is_gone, loop.create_future())
        heapq.heappush(self._waiting, turn)
        self._begin_next()
        try:
            return await turn.answer
        except asyncio.CancelledError:
            if self._present is turn:
                self._send(number)
            raise

    def _begin_next(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        while self._present is None and self._waiting:
            turn = self._waiting[0]
            if not turn.answer.done() and (pause := turn.not_before - now()) > 0:
                self._pause = asyncio.get_running_loop().call_later(pause, self._begin_next)
                return
            heapq.heappop(self._waiting)
            if turn.answer.done():
                continue
            if turn.is_gone():  # which the loop has not come to yet
                turn.answer.set_exception(ClientDisconnect())
                continue
            self._present = turn
            self._send((turn.number, turn.body))

    def _send(self, message: Any) -> None:
        with suppress(OSError):  # the process has ended: `_receive` is told
            self._pipe.send(message)

    def _receive(self) -> None:
        try:
            status, said = self._pipe.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            status, said = 500, "the model's process has ended"
        turn, self._present = self._present, None
        if turn is not None and not turn.answer.done():
            if status == 200:
                turn.answer.set_result(Answer(*said))
            else:
                turn.answer.set_exception(ClientDisconnect() if turn.is_gone() else HTTPException(status, said))
        self._begin_next()


def answer_all(pipe: "Connection[Any, Any]", served: ServedModel) -> None:
    """The model's end: answer what comes through the pipe until it is closed."""
    with suppress(EOFError, OSError):
        while True:
            if isinstance(asked := pipe.recv(), int):
                continue  # it was abandoned when it had been answered
            _, body = asked
            try:
                # While it is answered nothing can come but that it is abandoned, or the end.
                answers = served.answer(body, pipe.poll)
            except HTTPException as error:
                pipe.send((error.status_code, error.detail))
                continue
            text, scored = StringIO(), int(answers["rlvo"].notna().sum())
            scoring_server.predictions_to_json(answers, text)  # type: ignore[no-untyped-call]
            pipe.send((200, (text.getvalue(), scored, len(answers) - scored)))
