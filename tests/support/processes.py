"""Processes and ports of the real services that tests start on the loopback address."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable

import psutil


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait for a condition, which must hold before the process ends."""
    deadline = time.monotonic() + 240
    while not condition():
        assert process is None or process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def kill_node(node: subprocess.Popen[bytes]) -> None:
    """Kill a node of a cluster as a power cut would: all its processes at once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(node.pid)
        for each in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    node.wait(30)
