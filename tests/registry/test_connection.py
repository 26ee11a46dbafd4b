"""uvicorn with our connections, in this process: what does not come in time, or never ends."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from rlvo.registry import connection
from rlvo.registry.connection import Connection, is_local

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.4)
    monkeypatch.setattr(connection, "BODY_SECONDS", 0.4)
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 20)
    return []


@pytest.fixture
def port(refused: list[int]) -> Iterator[int]:
    """A server that says how long a request's body is; an empty one gets 20 MB."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            length = len(await Request(scope, receive).body())
        except ClientDisconnect:
            return
        await JSONResponse(length or "a" * 20_000_000)(scope, receive, send)

    options: Any = {"http": partial(Connection, on_refused=refused.append), "ws": "none", "lifespan": "off"}
    server = uvicorn.Server(uvicorn.Config(app, **options, loop="asyncio", log_level="error"))
    opened = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[opened])))
    thread.start()
    yield opened.getsockname()[1]
    server.should_exit = True
    thread.join(30)


def connect(port: int, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.sendall(sent)
    return client


def rest(client: socket.socket) -> bytes:
    """All that still comes until the connection ends."""
    received = b""
    with client, contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            received += part
    return received


def answer(client: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of one answer; they may come in several pieces."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(1) or pytest.fail(f"the connection ended after {received!r}")
    head, body = received.partition(b"\r\n\r\n")[0].lower(), b""
    length = next(int(line[15:]) for line in head.splitlines() if line.startswith(b"content-length:"))
    while len(body) < length:
        body += client.recv(length - len(body)) or pytest.fail(f"the connection ended after {body!r}")
    return head, body


@pytest.mark.parametrize("sent", [b"", b"POST / HT", HEAD[:-2], HEAD, HEAD + b"abcd"])
def test_a_request_that_does_not_come_in_time_is_refused(port: int, refused: list[int], sent: bytes) -> None:
    start = time.monotonic()
    head, _, body = rest(connect(port, sent)).partition(b"\r\n\r\n")
    assert 0.3 < time.monotonic() - start < 5
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert json.loads(body) == {"error": "no whole request came in 0.4 s"}
    assert refused == [408]


def test_drops_of_a_request_win_no_time(port: int) -> None:
    client, start, received = connect(port, HEAD.replace(b"5", b"999", 1)), time.monotonic(), b""
    client.settimeout(0.05)
    while not received:
        client.sendall(b"a")
        with contextlib.suppress(TimeoutError):
            received = client.recv(1000)
    client.close()
    assert b" 408 " in received
    assert time.monotonic() - start < 5


def test_a_second_request_has_its_own_time(port: int, refused: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEADER_SECONDS", 3)
    client = connect(port)
    for _ in range(3):
        time.sleep(1.2)
        client.sendall(HEAD + b"abcde")
        head, body = answer(client)
        assert head.startswith(b"http/1.1 200 ok")
        assert body == b"5"
    client.sendall(HEAD)
    assert b" 408 " in rest(client)
    assert refused == [408]


def test_those_who_only_connect_do_not_keep_others_out(
    port: int, refused: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 callers begin a request, 20 connections may be open: each newcomer closes the slowest."""
    monkeypatch.setattr(connection, "HEADER_SECONDS", 5)
    monkeypatch.setattr(connection, "BODY_SECONDS", 5)
    slow = [connect(port, HEAD + b"ab") for _ in range(60)]
    for _ in range(5):
        assert rest(connect(port, HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + b"abcde")).endswith(
            b"\r\n\r\n5"
        )
    ends = [rest(each) for each in slow]
    assert all(b" 429 " in end or b" 408 " in end for end in ends)
    assert ends[0].endswith(b'{"error": "too many connections"}')
    assert set(refused) <= {408, 429}
    assert refused.count(429) >= 40


def test_an_answer_that_nobody_reads_is_given_up(port: int) -> None:
    client = connect(port, HEAD.replace(b"5", b"0", 1))
    time.sleep(4)
    assert len(rest(client)) < 20_000_000


def test_what_is_no_http_is_refused_in_json(port: int, refused: list[int]) -> None:
    head, _, body = rest(connect(port, b"HELLO\r\n\r\n")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-type: application/json" in head
    assert list(json.loads(body)) == ["error"]
    assert refused == [400]


def test_which_addresses_only_this_machine_reaches() -> None:
    assert all(map(is_local, ("127.0.0.1", "127.8.9.1", "::1", "localhost")))
    assert not any(map(is_local, ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "", "hospital")))
