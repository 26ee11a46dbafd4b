"""`rlvo serve` while strangers attack it: how long others wait for their answers, and what memory it takes.

A real server with a tiny model. Strangers are processes of their own, but on the same cores as the server.
"""

from __future__ import annotations

import http.client
import itertools
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.measure import show

REPOSITORY = Path(__file__).parents[1]
sys.path.append(str(REPOSITORY / "tests"))
from support.attacks import TOKEN, attacks, request  # noqa: E402
from support.commands import run  # noqa: E402
from support.processes import free_port  # noqa: E402
from support.tiny_study import make_study  # noqa: E402

MAX_BYTES, MAX_ROWS = 20_000, 20
HALF_SENT = 250
LEAVING = 15
PAUSE = 0.02
"""Seconds between two requests of one stranger, who waits for each answer."""


def benchmark_serve(*, short: bool = False) -> None:
    """Print others' waiting time without and during each attack, and memory before and after 1,000 requests."""
    asked, flood = (3, 100) if short else (200, 1000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = make_study(folder)
        run("ensemble", "tiny", "--workdir", study.workdir.path)
        rows = json.loads(study.raw.drop(columns="rlvo").to_json(orient="records"))
        (study.cohort.parent / "link").symlink_to("/etc")
        with serving(study.workdir.path, study.cohort.parent, folder) as (port, process):
            table = [each.sent for each in attacks(rows[0], max_bytes=MAX_BYTES, max_rows=MAX_ROWS).values()]
            odd = [each for each in table if b"evil" in each or b"HELLO" in each] + [request(token=None)]
            many = request(body=json.dumps({"dataframe_records": rows[:MAX_ROWS]}))
            ways: dict[str, Callable[[], Any]] = {
                "nobody else": ExitStack,
                f"{HALF_SENT} half-sent bodies": lambda: strangers(half_send, port, HALF_SENT),
                f"{LEAVING} who ask for {MAX_ROWS} patients and leave": lambda: strangers(leave, port, LEAVING, many),
                "4 without a token or HTTP": lambda: strangers(keep_asking, port, 4, odd),
                "4 with the table of attacks": lambda: strangers(keep_asking, port, 4, table),
            }
            waited = {}
            for way, attack in ways.items():
                with attack():
                    time.sleep(0 if short else 3)
                    waited[way] = [ask(port, rows[0]) for _ in range(asked)]
            alone = np.percentile(waited["nobody else"], 95)
            figures = {
                way: (
                    np.nanmedian(each) * 1e3,
                    np.nanpercentile(each, 95) * 1e3,
                    np.nanpercentile(each, 95) / alone,
                    np.isnan(each).mean(),
                )
                for way, each in waited.items()
            }
            shown = ("median, ms", "95th percentile, ms", "of nobody else's", "refused (429)")
            show(f"waiting for one patient's answer, {asked} times, {os.cpu_count()} cores", shown, figures)
            memory: dict[str, tuple[float, ...]] = {}
            sent, flooding = 0, itertools.cycle(table)
            with ThreadPoolExecutor(20) as callers:
                for until in (flood // 4, flood // 2, flood):
                    list(callers.map(exchange, itertools.repeat(port, until - sent), flooding))
                    sent = until
                    processes = [process, *process.children()]  # what they share is counted once
                    memory[f"after {sent} requests of the table"] = (
                        sum(each.memory_full_info().pss for each in processes) / 2**20,
                    )
            show("memory of the server", ("MiB",), memory)


@contextmanager
def serving(work: Path, root: Path, folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    """A server of the registered model: its port, and the model's process, whose child listens."""
    port, token = free_port(), folder / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    options = ["--workdir", work, "--data-root", root, "--audit", folder / "audit.jsonl", "--token-file", token]
    options += ["--port", port, "--max-bytes", MAX_BYTES, "--max-rows", MAX_ROWS, "--ungated"]
    command = [sys.executable, "-m", "rlvo", "serve", "rlvo-ensemble", *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.2)
        [child] = psutil.Process(process.pid).children()
        yield port, child
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def ask(port: int, row: dict[str, Any]) -> float:
    """Seconds until one patient's answer is there, on a connection of its own; NaN if too many wait already."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    connection.request("POST", "/invocations", json.dumps({"dataframe_records": [row]}), headers)
    answered = connection.getresponse()
    said = answered.read()
    connection.close()
    if answered.status == 429:
        return float("nan")
    assert answered.status == 200, said
    return time.perf_counter() - start


@contextmanager
def strangers(work: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """What strangers do, in a process of its own, until the context ends."""
    process = get_context("spawn").Process(target=work, args=arguments, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def half_send(port: int, count: int) -> None:
    """Hold `count` connections open, each with half a request; one that the server closes is opened again."""
    half = request(body="{", length=False).replace(b"\r\n\r\n", b"\r\nContent-Length: 5000\r\n\r\n")
    held: list[socket.socket] = []
    while True:
        while len(held) < count:
            held.append(socket.create_connection(("127.0.0.1", port)))
            held[-1].sendall(half)
        for ended in select.select(held, [], [], 1)[0]:
            held.remove(ended)
            ended.close()


def leave(port: int, count: int, sent: bytes) -> None:
    """Ask `count` times at once, and leave before there is an answer; again and again."""
    while True:
        callers = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
        for caller in callers:
            caller.sendall(sent)
        time.sleep(PAUSE)
        for caller in callers:
            caller.close()


def keep_asking(port: int, count: int, table: list[bytes]) -> None:
    """`count` strangers send the requests of a table, each after the answer to the one before."""

    def one(first: int) -> None:
        for sent in itertools.islice(itertools.cycle(table), first, None):
            exchange(port, sent)
            time.sleep(PAUSE)

    threads = [threading.Thread(target=one, args=(math.ceil(len(table) * i / count),)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def exchange(port: int, sent: bytes) -> None:
    """Send a request and read until the connection ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client, suppress(ConnectionError):
        client.sendall(sent)
        while client.recv(65536):
            pass
