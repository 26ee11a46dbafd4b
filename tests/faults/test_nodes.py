"""A cluster of two nodes on this machine loses one, then all: the trials continue elsewhere from their checkpoints."""

import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.processes import free_port, kill_node
from support.victim import EPOCH_COUNT, TRIALS, Victim, check_same, wait_for

pytestmark = pytest.mark.timeout(900)

StartNode = Callable[..., subprocess.Popen[bytes]]


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
        kill_node(node)
    shutil.rmtree(folder, ignore_errors=True)


def alive_nodes(address: str) -> int:
    code = f"import ray; ray.init('{address}', logging_level=40); print(sum(n['Alive'] for n in ray.nodes()))"
    counted = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return int(counted.stdout.split()[-1]) if counted.returncode == 0 else 0


def test_a_node_lost_and_then_the_whole_cluster(undisturbed: Victim, start_node: StartNode, tmp_path: Path) -> None:
    victim = undisturbed.beside(tmp_path)
    address = f"127.0.0.1:{free_port()}"
    head = start_node(address, head=True)
    while alive_nodes(address) < 1:
        time.sleep(1)
    other = start_node(address, head=False)
    while alive_nodes(address) < 2:
        time.sleep(1)
    process = victim.start("--address", address)
    wait_for(lambda: len(victim.epochs()) >= 2 and victim.epoch_count() >= EPOCH_COUNT // 2, process)
    before = victim.epochs()
    kill_node(other)
    wait_for(lambda: victim.epoch_count() >= EPOCH_COUNT * TRIALS // 2, process)  # continues on the head alone
    assert all(victim.epochs()[trial][: len(lines)] == lines for trial, lines in before.items())
    ended, before = victim.ended(), victim.epochs()
    kill_node(head)
    process.kill()
    process.communicate()

    address = f"127.0.0.1:{free_port()}"
    start_node(address, head=True)
    while alive_nodes(address) < 1:
        time.sleep(1)
    code, said = victim.wait(victim.start("--address", address))
    assert code == 0, said
    assert all(victim.ended()[trial] == files for trial, files in ended.items())
    assert all(victim.epochs()[trial][: len(lines)] == lines for trial, lines in before.items())
    check_same(victim, undisturbed)
