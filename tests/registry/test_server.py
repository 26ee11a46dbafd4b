"""Two real servers under mixed, concurrent requests."""

import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.attacks import CANARY, TOKEN, attacks, get
from support.documents import ROOT, blocks
from support.processes import free_port
from support.tiny_study import TinyStudy

from rlvo.cohort.pseudonym import cohort_key, pseudonym
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.inference.service import DATA_ROOT

MIB = 2**20
MAX_BYTES = 20_000
MAX_ROWS = 20
Reply = tuple[int, Any]


@pytest.fixture(scope="module", params=["rlvo", "mlflow"])
def server(
    request: pytest.FixtureRequest, study: TinyStudy, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str, Path]]:
    """A real server of either kind: which, its address, its folder."""
    folder, root = tmp_path_factory.mktemp(request.param), study.cohort.parent
    (root / "link").symlink_to("/etc") if not (root / "link").is_symlink() else None
    port = str(free_port())
    if request.param == "rlvo":
        (folder / "token").write_text(f"{TOKEN}\n")
        (folder / "token").chmod(0o600)
        options = ["--data-root", str(root), "--audit", str(folder / "audit.jsonl"), "--token-file", folder / "token"]
        limits = ["--max-bytes", str(MAX_BYTES), "--max-rows", str(MAX_ROWS)]
        command = ["-m", "rlvo.cli.main", "serve", str(package), "--port", port, *map(str, options), *limits]
    else:
        command = ["-m", "mlflow", "models", "serve", "-m", str(package), "--env-manager", "local", "--port", port]
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {DATA_ROOT: str(root), "PATH": scripts, "PYTHONDONTWRITEBYTECODE": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield request.param, wait_for(f"http://127.0.0.1:{port}", process, folder / "log"), folder
    finally:
        if request.param == "rlvo":
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        else:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(480):
        assert process.poll() is None, log.read_text()
        try:
            if post(address, "", method="GET", path="/ping")[0] == 200:
                return address
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def post(
    address: str,
    body: object,
    *,
    kind: str | None = "application/json",
    method: str = "POST",
    path: str = "/invocations",
) -> Reply:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=300)
    sent = body if isinstance(body, str) else json.dumps(body)
    headers = {"Authorization": f"Bearer {TOKEN}"}  # MLflow's server does not mind
    connection.request(method, path, sent, headers | ({"Content-Type": kind} if kind else {}))
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    try:
        return reply.status, json.loads(text)
    except ValueError:
        return reply.status, text


def memory(port: str) -> float:
    """MiB of the process that listens, and of its parent: the model's."""
    process = listener(port)
    return sum(each.memory_info().rss for each in (process, *process.parents()[:1])) / MIB


def listener(port: str) -> psutil.Process:
    [pid] = {
        each.pid for each in psutil.net_connections("tcp") if each.status == "LISTEN" and each.laddr[1:] == (int(port),)
    }
    return psutil.Process(pid)


BAD: dict[str, tuple[int, object]] = {
    "outside": (403, {"ncct": "/etc/passwd"}),
    "up": (403, {"cta": "../../etc/passwd"}),
    "link": (403, {"cta": "link/passwd"}),
    "nul": (403, {"cta": "a\0b"}),
    "nameless": (400, {"patient_id": None}),
    "list": (400, {"age": [1]}),
    "none": (400, "{}"),
    "torn": (400, '{"dataframe_records": [{"patient_id"'),
    "array": (400, "[1]"),
    "ragged": (400, '{"dataframe_split": {"columns": ["patient_id", "age"], "data": [["a"]]}}'),
    "columnless": (400, '{"dataframe_records": [{"age": 5}]}'),
    "empty": (400, '{"dataframe_records": []}'),
}


@pytest.mark.slow
def test_200_mixed_requests_at_once_each_get_what_is_theirs(
    server: tuple[str, str, Path], study: TinyStudy, predictor: EnsemblePredictor
) -> None:
    kind, address, folder = server
    table = study.raw.drop(columns="rlvo").head(8)
    expected = predictor.predict(table, study.cohort.parent).set_index("patient_id")["score"]
    rows = json.loads(table.to_json(orient="records"))
    good = [("good", row) for row in rows] * 5
    bad = list(itertools.islice(itertools.cycle(BAD), 160))
    wanted: list[tuple[str, object]] = []
    for i, name in enumerate(bad):
        wanted += [(name, BAD[name][1])] + ([good[i // 4]] if i % 4 == 0 else [])
    assert len(wanted) == 200

    def sent(each: tuple[str, object]) -> Reply:
        name, body = each
        if isinstance(body, dict):
            body = {"dataframe_records": [body if name == "good" else rows[0] | body]}
        return post(address, body)

    port = address.rpartition(":")[2]
    with ThreadPoolExecutor(20) as clients:
        replies = list(clients.map(sent, wanted[:100]))
        before = memory(port)
        replies += list(clients.map(sent, wanted[100:]))
    assert memory(port) - before < 60
    for (name, body), (status, answer) in zip(wanted, replies, strict=True):
        if name == "good":
            assert status == 200, answer
            [row] = answer["predictions"]
            assert row["patient_id"] == body["patient_id"]  # type: ignore[index]
            assert row["score"] == pytest.approx(expected[row["patient_id"]], abs=1e-6)
        else:
            assert status == BAD[name][0], (name, answer)
            if kind == "rlvo":
                assert list(answer) == ["error"]
                assert "\n" not in answer["error"]
                assert "Traceback" not in answer["error"]
    if kind == "rlvo":
        check_audit(folder / "audit.jsonl", wanted, replies)


def check_audit(audit: Path, wanted: list[tuple[str, object]], replies: list[Reply]) -> None:
    """Every answer and refusal is on record, by pseudonym, without id or path."""
    assert audit.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert sum("refused" in line for line in lines) >= 160
    key = cohort_key(audit.parent)
    answered = {line["patient"]: line for line in lines if "answer" in line}
    assert sum("answer" in line for line in lines) == sum(status == 200 for status, _ in replies)
    for (name, _), (_, reply) in zip(wanted, replies, strict=True):
        if name == "good":
            [row] = reply["predictions"]
            line = answered[pseudonym(row["patient_id"], key)]
            assert line["answer"]["score"] == row["score"]
            assert "cta" in line["given"]
            assert len(line["manifest"]) == 64
    assert "PLANTED" not in audit.read_text()
    assert ".nii" not in audit.read_text()


HEAD = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HEAD += f"Authorization: Bearer {TOKEN}\r\n".encode()
CHUNKED = b"Transfer-Encoding: chunked\r\n"
PING = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"
END = b"0\r\n\r\n"
RAW: dict[str, tuple[int, list[bytes]]] = {
    "both": (400, [HEAD, b"Content-Length: 10\r\n", CHUNKED, b"\r\n", b"2\r\n{}\r\n", END, PING]),
    "both, the other order": (400, [HEAD, CHUNKED, b"Content-Length: 5\r\n\r\n", END, PING]),
    "both, without a body": (400, [PING[:-2], CHUNKED, b"Content-Length: 5\r\n\r\n", END, PING]),
    "both, endless": (
        400,
        [HEAD, b"Content-Length: 10\r\n", CHUNKED, b"\r\n", *[b"1000\r\n", b" " * 4096, b"\r\n"] * 9999],
    ),
    "chunks, too large": (413, [HEAD, CHUNKED, b"\r\n", *[b"1000\r\n", b" " * 4096, b"\r\n"] * 9999]),
    "chunks": (411, [HEAD, CHUNKED, b"\r\n", b"2\r\n{}\r\n", END, PING]),
    "negative": (400, [HEAD, b"Content-Length: -1\r\n\r\n", PING]),
    "a word": (400, [HEAD, b"Content-Length: ten\r\n\r\n", PING]),
    "a sign": (400, [HEAD, b"Content-Length: +2\r\n\r\n{}", PING]),
    "two lengths": (400, [HEAD, b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", PING]),
    "a list": (400, [HEAD, b"Content-Length: 2, 3\r\n\r\n{}", PING]),
    "another coding": (400, [HEAD, b"Transfer-Encoding: gzip, chunked\r\n\r\n", PING]),
}
"""Requests, byte for byte, and the status of the only answer. Most are followed by one that would be answered alone."""


def exchange(port: int, sent: bytes) -> bytes:
    """All that a server answers to these bytes until it closes the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=300) as client:
        with contextlib.suppress(ConnectionError):  # it may close before all was sent
            client.sendall(sent)
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65536):
                received += part
    return received


@pytest.mark.slow
@pytest.mark.parametrize("server", ["rlvo"], indirect=True)
def test_the_bytes_that_come_count_and_an_unclear_end_closes_the_connection(server: tuple[str, str, Path]) -> None:
    port = int(server[1].rpartition(":")[2])
    for name, (status, sent) in RAW.items():
        received = exchange(port, b"".join(sent))
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == [str(status).encode()], (name, received)
    assert post(server[1], "", method="GET", path="/ping")[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("server", ["rlvo"], indirect=True)
def test_the_documented_request_is_answered(server: tuple[str, str, Path]) -> None:
    [block] = [block for block in blocks(ROOT / "docs/inference.md") if block.text.startswith("curl")]
    command = block.text.replace("localhost:8080", server[1]).replace(
        "curl", f"curl -H 'Authorization: Bearer {TOKEN}'"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    [answer] = json.loads(done.stdout)["predictions"]
    assert (answer["patient_id"], answer["rlvo"]) == ("a", None)  # no such patient here


@pytest.mark.slow
@pytest.mark.parametrize("server", ["rlvo"], indirect=True)
def test_what_only_our_server_refuses(server: tuple[str, str, Path], study: TinyStudy) -> None:
    _, address, _ = server
    row = json.loads(study.raw.head(1).drop(columns="rlvo").to_json(orient="records"))[0]
    assert post(address, {"dataframe_records": [row | {"age": "7" * MAX_BYTES}]})[0] == 413
    for content in (None, "text/csv", "text/plain", "application/vnd.apache.parquet"):
        assert post(address, {"dataframe_records": [row]}, kind=content)[0] == 415
    digits = '{"dataframe_records": [{"patient_id": "a", "age": ' + "9" * 6000 + "}]}"
    for body in ("[" * 9000, digits, {"instances": [row]}, {"dataframe_records": [row], "params": {"store": "x"}}):
        status, answer = post(address, body)
        assert status == 400
        assert "\n" not in answer["error"]
    assert post(address, "", method="GET")[0] == 405
    assert post(address, "{}", path="/nothing")[0] in (400, 404)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["rlvo"], indirect=True)
def test_strangers_get_one_line_and_others_their_answers(
    server: tuple[str, str, Path], study: TinyStudy, predictor: EnsemblePredictor
) -> None:
    """The table of attacks from eight callers at once, then 1,000 that are refused from 40, which leave no memory."""
    _, address, folder = server
    port = int(address.rpartition(":")[2])
    row = json.loads(study.raw.head(1).drop(columns="rlvo").to_json(orient="records"))[0]
    [expected] = predictor.predict(study.raw.head(1), study.cohort.parent)["score"]
    table = attacks(row, max_bytes=MAX_BYTES, max_rows=MAX_ROWS)

    def attack(name: str) -> tuple[str, bytes]:
        return name, exchange(port, table[name].sent)

    with ThreadPoolExecutor(8) as eight, ThreadPoolExecutor(40) as strangers:
        replies = list(eight.map(attack, table))
        before = memory(str(port))
        refused = [name for name, each in table.items() if each.status >= 400]
        while_attacked = strangers.map(attack, itertools.islice(itertools.cycle(refused), 1000))
        for _ in range(5):
            status, answer = post(address, {"dataframe_records": [row]})
            assert status == 200
            assert answer["predictions"][0]["score"] == pytest.approx(expected, abs=1e-6)
        replies += list(while_attacked)
    assert memory(str(port)) - before < 20
    for name, received in replies:
        head, _, body = received.partition(b"\r\n\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == [str(table[name].status).encode()], (name, received)
        assert b"content-type: application/json" in head.lower(), (name, received)
        assert (list(json.loads(body)) == ["error"]) == (table[name].status >= 400), (name, received)
        assert b"\n" not in body, name
        assert b"Traceback" not in body, name
    assert b"row 2" in dict(replies)["an id twice"]
    assert row["patient_id"].encode() not in dict(replies)["an id twice"]
    log = (folder / "log").read_text()
    assert "Traceback" not in log, log
    for text in (log, (folder / "audit.jsonl").read_text()):
        assert not {word for word in (CANARY, TOKEN, "PLANTED", "constructor", "evil.example") if word in text}


@pytest.mark.slow
@pytest.mark.parametrize("server", ["rlvo"], indirect=True)
def test_whoever_leaves_gives_up_the_turn(server: tuple[str, str, Path], study: TinyStudy) -> None:
    """15 callers ask about 20 patients each and leave: none of the 300 is answered for, the next caller is."""
    _, address, folder = server
    port = int(address.rpartition(":")[2])
    rows = json.loads(study.raw.head(MAX_ROWS).drop(columns="rlvo").to_json(orient="records"))
    body = json.dumps({"dataframe_records": rows}).encode()
    answered, abandoned = (
        (folder / "audit.jsonl").read_text().count('"answer"'),
        metric(address, "rlvo_abandoned_total"),
    )
    callers = [socket.create_connection(("127.0.0.1", port)) for _ in range(15)]
    for caller in callers:
        caller.sendall(HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    for caller in callers:
        caller.close()
    assert post(address, {"dataframe_records": rows[:1]})[0] == 200
    assert (folder / "audit.jsonl").read_text().count('"answer"') == answered + 1
    assert metric(address, "rlvo_abandoned_total") == abandoned + 15
    assert metric(address, "rlvo_waiting") == 0
    assert "Traceback" not in (folder / "log").read_text()


def metric(address: str, name: str) -> float:
    return float(re.findall(rf"^{name} (\S+)$", shown(address), re.M)[0])


@pytest.mark.slow
@pytest.mark.parametrize("server", ["rlvo"], indirect=True)
def test_health_readiness_and_metrics(server: tuple[str, str, Path], study: TinyStudy) -> None:
    _, address, folder = server
    port = int(address.rpartition(":")[2])
    for path, body in {"/ping": b"\n", "/health": b"\n", "/ready": b'{"ready":true}'}.items():  # without a token
        head, _, answer = exchange(port, get(path, token=None)).partition(b"\r\n\r\n")
        assert (head[:15], answer) == (b"HTTP/1.1 200 OK", body)
    row = json.loads(study.raw.head(1).drop(columns="rlvo").to_json(orient="records"))[0]
    before = metric(address, 'rlvo_patients_total\\{scored="yes"\\}') if "scored=" in shown(address) else 0
    assert post(address, {"dataframe_records": [row]})[0] == 200
    assert metric(address, 'rlvo_patients_total\\{scored="yes"\\}') == before + 1
    assert metric(address, "process_resident_memory_bytes") > 50 * MIB
    assert not re.search(f"PLANTED|{CANARY}|{re.escape(str(folder))}", shown(address))


def shown(address: str) -> str:
    return str(post(address, "", method="GET", path="/metrics")[1])


@pytest.mark.slow
@pytest.mark.parametrize("which", ["listens", "answers"])
def test_if_either_process_dies_the_other_ends_and_the_command_says_so(
    which: str, study: TinyStudy, package: Path, tmp_path: Path
) -> None:
    port, log = str(free_port()), tmp_path / "log"
    command = ["-m", "rlvo.cli.main", "serve", str(package), "--port", port, "--data-root", str(study.cohort.parent)]
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, *command], stdout=file, stderr=file)
    try:
        wait_for(f"http://127.0.0.1:{port}", process, log)
        listens = listener(port)
        answers = listens.parent()
        assert answers is not None
        {"listens": listens, "answers": answers}[which].kill()
        assert process.wait(60) == 1
        psutil.wait_procs([listens, answers], 60)
        assert not listens.is_running()
        assert not answers.is_running()
    finally:
        process.kill()
    last = log.read_text().splitlines()[-1]
    assert ("the server's process ended with -9" if which == "listens" else "the server was ended by signal 9") in last
