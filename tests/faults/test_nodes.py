"""A cluster of two nodes on this machine loses one, then all: the trials go on elsewhere from their checkpoints."""

import contextlib
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support.victim import EPOCH_COUNT, TRIALS, Victim, check_same, wait_for

pytestmark = pytest.mark.timeout(900)

StartNode = Callable[..., subprocess.Popen[bytes]]


def end(process: psutil.Process) -> None:
    """Kill a node: the process that started it and everything below it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


@pytest.fixture
def start_node(monkeypatch: pytest.MonkeyPatch) -> Iterator[StartNode]:
    """Starts a node of one CPU: the head at an address, or another that joins it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # a socket's path has to be short
    (folder / "token").write_text(secrets.token_hex(32))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))
    nodes: list[subprocess.Popen[bytes]] = []

    def start(address: str, *, head: bool) -> subprocess.Popen[bytes]:
        host, port = address.split(":")
        role = ["--head", f"--node-ip-address={host}", f"--port={port}"] if head else [f"--address={address}"]
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
        options = ["--include-dashboard=false"] if head else []
        place = f"--temp-dir={folder / str(len(nodes))}"
        with (folder / f"{len(nodes)}.log").open("wb") as log:
            nodes.append(subprocess.Popen([*ray, *role, *options, place], stdout=log, stderr=log))
        return nodes[-1]

    yield start
    for node in nodes:
        if node.poll() is None:
            end(psutil.Process(node.pid))
        node.wait()
    shutil.rmtree(folder, ignore_errors=True)


def new_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def alive_nodes(address: str) -> int:
    code = f"import ray; ray.init('{address}', logging_level=40); print(sum(n['Alive'] for n in ray.nodes()))"
    counted = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return int(counted.stdout.split()[-1]) if counted.returncode == 0 else 0


def test_a_node_lost_and_then_the_whole_cluster(undisturbed: Victim, start_node: StartNode, tmp_path: Path) -> None:
    victim = undisturbed.beside(tmp_path)
    address = new_address()
    head = start_node(address, head=True)
    while alive_nodes(address) < 1:
        time.sleep(1)
    other = start_node(address, head=False)
    while alive_nodes(address) < 2:
        time.sleep(1)
    process = victim.start("--address", address)
    wait_for(lambda: len(victim.epochs()) >= 2 and victim.epoch_count() >= EPOCH_COUNT // 2, process)
    before = victim.epochs()
    end(psutil.Process(other.pid))
    wait_for(lambda: victim.epoch_count() >= EPOCH_COUNT * TRIALS // 2, process)  # goes on on the head alone
    assert all(victim.epochs()[trial][: len(lines)] == lines for trial, lines in before.items())
    ended, before = victim.ended(), victim.epochs()
    end(psutil.Process(head.pid))
    process.kill()
    process.communicate()

    address = new_address()
    start_node(address, head=True)
    while alive_nodes(address) < 1:
        time.sleep(1)
    code, said = victim.wait(victim.start("--address", address))
    assert code == 0, said
    assert all(victim.ended()[trial] == files for trial, files in ended.items())
    assert all(victim.epochs()[trial][: len(lines)] == lines for trial, lines in before.items())
    check_same(victim, undisturbed)
