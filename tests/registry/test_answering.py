"""Our server in this process, with a model that answers when it is told to: who waits for whom, and for how long."""

import asyncio
import http.client
import json
import os
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest
import uvicorn
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from support.attacks import TOKEN, get, request

from rlvo.registry import answering, connection, served_model
from rlvo.registry.answering import ModelProcess, answer_all
from rlvo.registry.connection import Connection
from rlvo.registry.served_model import ServedModel
from rlvo.registry.server import Server

LONG = 3600.0
DEADLINE = 60


class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Says which patients it is asked about, and waits for leave to answer."""

    asked: "queue.Queue[list[str]]" = queue.Queue()
    leave: "queue.Queue[None]" = queue.Queue()

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        ids = list(model_input["patient_id"])
        Model.asked.put(ids)
        Model.leave.get(timeout=DEADLINE)
        return pd.DataFrame({"patient_id": ids, "rlvo": 1, "warnings": ""})


@dataclass
class Running:
    """A server, and callers of it."""

    app: Server
    server: uvicorn.Server
    port: int
    replies: "queue.Queue[tuple[str, int]]" = field(default_factory=queue.Queue)

    def ask(self, name: str, rows: int = 1) -> None:
        """Ask about patients without waiting for the answer, until the server knows that somebody waits."""
        before = self.metric("rlvo_waiting")
        body = json.dumps({"dataframe_records": [{"patient_id": f"{name}{i}"} for i in range(rows)]})

        def wait() -> None:
            caller = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
            caller.request("POST", "/invocations", body, {"Content-Type": "application/json"} | BEARER)
            self.replies.put((name, caller.getresponse().status))
            caller.close()

        threading.Thread(target=wait, daemon=True).start()
        until(lambda: self.metric("rlvo_waiting") == before + 1)
        with self.send(get("/ping")) as other:  # what the loop had begun by then is done
            assert other.recv(1)

    def send(self, sent: bytes) -> socket.socket:
        caller = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)
        caller.sendall(sent)
        return caller

    def metric(self, name: str, **labels: str) -> float:
        return self.app.metrics.registry.get_sample_value(name, labels) or 0


BEARER = {"Authorization": f"Bearer {TOKEN}"}


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> mlflow.pyfunc.PyFuncModel:
    path = tmp_path_factory.mktemp("model") / "model"
    signature = ModelSignature(Schema([ColSpec(DataType.string, "patient_id")]))
    mlflow.pyfunc.save_model(path, python_model=Model(), signature=signature, pip_requirements=[])
    return mlflow.pyfunc.load_model(str(path))


@pytest.fixture
def running(model: mlflow.pyfunc.PyFuncModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Running]:
    monkeypatch.setattr(Model, "asked", queue.Queue())
    monkeypatch.setattr(Model, "leave", queue.Queue())
    ours, models = Pipe()
    served = ServedModel(model, None, None, 20)
    models_own = threading.Thread(target=answer_all, args=(models, served), name="model", daemon=True)
    models_own.start()
    limits: dict[str, Any] = {"max_bytes": 20_000, "token": TOKEN, "host": "127.0.0.1"}
    app = Server(served, ModelProcess(ours), manifest="", pid=os.getpid(), **limits)
    options: Any = {"http": partial(Connection, on_refused=app.count), "ws": "none", "lifespan": "off"}
    server = uvicorn.Server(uvicorn.Config(app, **options, loop="asyncio", log_level="error"))
    opened = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[opened])))
    thread.start()
    yield Running(app, server, opened.getsockname()[1])
    for _ in range(30):
        Model.leave.put(None)
    server.should_exit = server.force_exit = True
    thread.join(DEADLINE)
    assert not thread.is_alive()
    ours.close()
    models_own.join(DEADLINE)
    assert not models_own.is_alive()


def asked(count: int) -> list[str]:
    """Let the model answer so many requests; who they were from."""
    names = []
    for _ in range(count):
        names.append(Model.asked.get(timeout=DEADLINE)[0].rstrip("0123456789"))
        Model.leave.put(None)
    return names


def test_whoever_asks_for_one_patient_passes_those_who_ask_for_many(running: Running) -> None:
    for name, rows in {"first": 1, "many": 20, "more": 19, "one": 1}.items():
        running.ask(name, rows)
    assert asked(4) == ["first", "one", "more", "many"]
    assert sorted(running.replies.get(timeout=DEADLINE) for _ in range(4)) == [
        (name, 200) for name in ("first", "many", "more", "one")
    ]


def test_nobody_is_passed_by_those_who_come_long_after(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    for name, rows, seconds in (("first", 1, 0), ("many", 20, 1), ("soon", 1, 19), ("late", 1, 21)):
        monkeypatch.setattr(answering, "now", lambda at=now + seconds: at)
        running.ask(name, rows)
    assert asked(4) == ["first", "soon", "many", "late"]


def test_a_table_is_begun_a_little_later_than_a_patient(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "PAUSE_PER_ROW", LONG)
    running.ask("many", 2)
    running.ask("one")
    assert asked(1) == ["one"]
    assert running.replies.get(timeout=DEADLINE) == ("one", 200)
    assert Model.asked.empty()


def test_a_long_request_is_read_in_the_models_turn(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python reads for 50 ms and more at 100,000 keys, in which the loop would answer nobody."""
    reads, read = list[tuple[int, str]](), ServedModel.read

    def noted(served: ServedModel, body: bytes) -> tuple[dict[str, Any] | None, int]:
        reads.append((len(body), threading.current_thread().name))
        return read(served, body)

    monkeypatch.setattr(served_model, "MAX_COMMAS", 50)
    monkeypatch.setattr(ServedModel, "read", noted)
    running.ask("first")
    wide = [{"patient_id": "wide"} | {f"c{number}": 1 for number in range(1500)}]
    long, right = ([{"patient_id": f"{name}{number}", "a": 1, "b": 2} for number in range(rows)]
                   for name, rows in (("long", 21), ("right", 20)))  # fmt: skip
    bodies = [json.dumps({"dataframe_records": rows}) for rows in (wide, long, right)]
    callers = [running.send(request(body=body)) for body in bodies]
    until(lambda: running.metric("rlvo_waiting") == 4)
    running.ask("one")  # the loop has turns for others
    assert not [size for size, _ in reads if size in map(len, bodies)]
    assert asked(3) == ["first", "one", "right"]
    told = [b"".join(iter(lambda caller=caller: caller.recv(65536), b"")) for caller in callers]
    assert [int(each[9:12]) for each in told] == [400, 413, 200]
    assert json.loads(told[0].partition(b"\r\n\r\n")[2])["error"].endswith("more than 1000 columns or keys")
    assert len(json.loads(told[2].partition(b"\r\n\r\n")[2])["predictions"]) == 20
    assert {thread for size, thread in reads if size in map(len, bodies)} == {"model"}


def test_of_those_who_left_none_reaches_the_model(running: Running) -> None:
    running.ask("first")
    body = json.dumps({"dataframe_records": [{"patient_id": "gone"}]})
    gone = [running.send(request(body=body)) for _ in range(10)]
    until(lambda: running.metric("rlvo_waiting") == 11)
    for caller in gone:
        caller.close()
    until(lambda: running.metric("rlvo_abandoned_total") == 10)
    running.ask("last")
    assert asked(2) == ["first", "last"]


def test_a_caller_who_leaves_is_missed_though_the_loop_stands_still() -> None:
    """The application blocks the loop, which therefore cannot notice, until the connection says so."""
    noticed, come = threading.Event(), threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert not scope["state"]["is_gone"]()
        come.set()
        until(scope["state"]["is_gone"])
        noticed.set()

    options: Any = {"http": partial(Connection, on_refused=lambda status: None), "ws": "none", "lifespan": "off"}
    server = uvicorn.Server(uvicorn.Config(app, **options, loop="asyncio", log_level="critical"))
    opened = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[opened])))
    thread.start()
    caller = socket.create_connection(opened.getsockname())
    caller.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert come.wait(DEADLINE)
    caller.close()
    assert noticed.wait(DEADLINE)
    server.should_exit = True
    thread.join(DEADLINE)


NOBODY = {
    "no token": request(token=None),
    "a wrong token": request(token="Authorization: Bearer a"),
    "no HTTP": b"HELLO\r\n\r\n",
    "no such page": get("/nothing"),
    "no table": request(body="{}"),
}


@pytest.mark.parametrize("sent", NOBODY.values(), ids=NOBODY)
def test_a_refusal_is_held_back_and_others_are_answered(
    running: Running, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection, "REFUSAL_SECONDS", LONG)
    refused = running.send(sent)
    until(lambda: any(each.is_held_back for each in tuple(running.server.server_state.connections)))
    running.ask("other")
    assert asked(1) == ["other"]
    assert running.replies.get(timeout=DEADLINE) == ("other", 200)
    refused.setblocking(False)
    with pytest.raises(BlockingIOError):
        refused.recv(1)
    refused.close()


@pytest.mark.parametrize("sent", [NOBODY["no token"], NOBODY["no such page"]], ids=["headers", "page"])
def test_whoever_leaves_before_the_refusal_leaves_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection, "REFUSAL_SECONDS", LONG)
    refused, state = running.send(sent), running.server.server_state
    until(lambda: any(each.is_held_back for each in tuple(state.connections)))
    refused.close()
    until(lambda: not state.connections and not state.tasks)


def test_those_who_are_refused_keep_no_place_from_others(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "REFUSAL_SECONDS", LONG)
    monkeypatch.setattr(connection, "HEADER_SECONDS", 2 * LONG)
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 10)
    held = [running.send(sent) for sent in 2 * [*NOBODY.values()]]
    until(lambda: sum(each.is_held_back for each in tuple(running.server.server_state.connections)) == 10)
    for name in ("one", "two", "three"):
        running.ask(name)
    assert asked(3) == ["one", "two", "three"]
    assert [running.replies.get(timeout=DEADLINE)[1] for _ in range(3)] == [200] * 3
    told = [caller.recv(65536) for caller in select.select(held, [], [], DEADLINE)[0]]
    assert len(told) >= 3
    assert {each[9:12] for each in told} == {b"429"}
    for caller in held:
        caller.close()


def test_what_a_refused_caller_goes_on_sending_is_dropped(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one byte, which would take 15 µs each to parse, and then a request that would be answered alone."""
    monkeypatch.setattr(connection, "REFUSAL_SECONDS", LONG)
    head = request("Transfer-Encoding: chunked", token=None, length=False).replace(b"Connection: close\r\n", b"")
    refused, state = running.send(head), running.server.server_state
    until(lambda: any(each.is_held_back for each in tuple(state.connections)))
    [held] = state.connections
    rest, came, receive = b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n" + get("/ping"), [0], held.data_received

    def count(data: bytes) -> None:
        receive(data)
        came[0] += len(data)

    monkeypatch.setattr(held, "data_received", count)
    refused.sendall(rest)
    until(lambda: came[0] == len(rest))
    assert held.cycle.body == b""
    assert held.conn.trailing_data == (b"", False)
    held.loop.call_soon_threadsafe(held._told.set)
    answers = b"".join(iter(lambda: refused.recv(65536), b""))
    refused.close()
    assert answers.count(b"HTTP/1.1 ") == 1
    assert answers.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in answers


def test_a_refusal_is_told_in_time(running: Running) -> None:
    for sent, status in zip(NOBODY.values(), (401, 401, 400, 404, 400), strict=True):
        with running.send(sent) as refused:
            head, _, body = b"".join(iter(lambda caller=refused: caller.recv(65536), b"")).partition(b"\r\n\r\n")
        assert int(head[9:12]) == status
        assert list(json.loads(body)) == ["error"]
    assert running.metric("rlvo_requests_total", status="401") == 2
