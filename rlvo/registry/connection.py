"""HTTP connections to strangers: what they send must come in time, and whatever is refused is refused in JSON.

uvicorn parses (h11) and has no limit of time for a request; these are added here. `rlvo serve` loads this file into a
process in which the rest of rlvo is the model's own: it imports none of it.
"""

import asyncio
import ipaddress
import json
import resource
import select
from collections.abc import Callable, Iterable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

HEADER_SECONDS = 10
"""From the opening of a connection to the end of a request's headers."""
BODY_SECONDS = 30
"""From there to the end of its body; also how long an answer may wait for its reader."""
REFUSAL_SECONDS = 0.5
"""From a request's refusal to its being told, so that whoever is refused and asks again takes little of the server."""
MAX_PIECE = 8192
"""Bytes that are parsed at once, between which others have their turn: the smallest chunks take 15 µs each."""
MOST_CONNECTIONS = 500
"""Beyond them, the one whose request is nearest to being given up is closed."""


class Connection(H11Protocol):
    """uvicorn's connection, with limits.

    Args:
        on_refused: called with the status of each request that is refused before the application sees all of it.
        options: of uvicorn's.
    """

    connections: set[Any]

    def __init__(self, *, on_refused: Callable[[int], None], **options: Any) -> None:
        super().__init__(**options)
        self.app_state = {**self.app_state, "hold_back": self._hold_back, "is_gone": self._is_gone}
        self._on_refused = on_refused
        self._limit: asyncio.TimerHandle | None = None
        self._limited: dict[str, dict[Connection, asyncio.TimerHandle]]
        self._limited = vars(self.server_state).setdefault("limited", {"headers": {}, "body": {}, "refusal": {}})
        self._told = asyncio.Event()
        self._is_deaf = False
        self._reader_limit: asyncio.TimerHandle | None = None
        self._state: object = None

    @property
    def is_held_back(self) -> bool:
        """Whether the present request is refused, and its caller not told yet."""
        return self in self._limited["refusal"]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers. If there are too many connections, one that still sends is closed."""
        super().connection_made(transport)
        transport.max_size = MAX_PIECE  # type: ignore[attr-defined]
        self._watch()
        if len(self.connections) > most_connections():
            first = [next(iter(each.items())) for each in self._limited.values() if each]  # each is in order
            min(first, key=lambda each: each[1].when())[0].refuse(429, "too many connections")

    def data_received(self, data: bytes) -> None:
        """Parse what has come, and wait for what is still missing; what a refused caller goes on sending is dropped."""
        if self._is_deaf:
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request, whose beginning may be here already."""
        super().on_response_complete()
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, even if the last answer was not read."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(BODY_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """An answer waits for its reader."""
        super().pause_writing()
        self._reader_limit = self.loop.call_later(BODY_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The reader reads."""
        super().resume_writing()
        if self._reader_limit is not None:
            self._reader_limit.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop every clock."""
        self._stop_waiting()
        self._told.set()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._is_deaf = True
        self._limit_time("refusal", REFUSAL_SECONDS, self.refuse, 400, msg.rstrip("."))

    def refuse(self, status: int, why: str) -> None:
        """Say why if nothing has been answered yet, and close."""
        self._stop_waiting()
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._on_refused(status)
            body = json.dumps({"error": why}).encode()
            headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
            headers.append((b"content-length", str(len(body)).encode()))
            answer = h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status])
            parts: Iterable[h11.Event] = (answer, h11.Data(data=body), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(part) or b"" for part in parts))
        self.transport.close()

    async def _hold_back(self) -> bool:
        """Wait before a refusal is told, unless the caller leaves; for the application.

        Returns:
            Whether the connection ends with it: not all of the request had come, and the rest was dropped.
        """
        if self.conn.their_state is h11.SEND_BODY:
            self._is_deaf, self.cycle.keep_alive = True, False
        if not self.transport.is_closing():
            self._told.clear()
            self._limit_time("refusal", REFUSAL_SECONDS, self._told.set)
        await self._told.wait()
        self._stop_waiting()
        return self._is_deaf

    def _is_gone(self) -> bool:
        """Whether the caller has left, which the loop may not have noticed yet."""
        if self.transport.is_closing():
            return True
        if (handle := self.transport.get_extra_info("socket").fileno()) < 0:
            return True
        poll = select.poll()
        poll.register(handle, select.POLLRDHUP)
        return bool(poll.poll(0))

    def _watch(self) -> None:
        """Start the clock of the part of a request that is being sent, when that part begins."""
        state = self.conn.their_state
        if state is self._state or self._is_deaf:
            return
        self._state = state
        self._stop_waiting()
        if state in (h11.IDLE, h11.SEND_BODY):
            part, seconds = ("headers", HEADER_SECONDS) if state is h11.IDLE else ("body", BODY_SECONDS)
            self._limit_time(part, seconds, self.refuse, 408, f"no whole request came in {seconds} s")

    def _limit_time(self, part: str, seconds: float, then: Callable[..., None], *given: Any) -> None:
        self._stop_waiting()
        self._limit = self._limited[part][self] = self.loop.call_later(seconds, then, *given)

    def _stop_waiting(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        for each in self._limited.values():
            each.pop(self, None)


def most_connections() -> int:
    """How many connections may be open: half of what the process may open, at most `MOST_CONNECTIONS`."""
    return min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
