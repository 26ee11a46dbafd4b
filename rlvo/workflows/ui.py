"""MLflow's UI on a work folder, for this machine only."""

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rlvo.config.workdir import Workdir
from rlvo.errors import MachineError, RlvoError, hide_passwords
from rlvo.mlflow_client import Tracking
from rlvo.registry.process import start_interpreter
from rlvo.study.folder import StudyFolder, read_config
from rlvo.tracking.views import StudyPages, all_pages
from rlvo.workflows.study import tracking_of

HOST, PORT = "127.0.0.1", 5000
STARTING_SECONDS, STOPPING_SECONDS = 180, 10
CHILD = """
import os, signal, subprocess, sys, threading
server = subprocess.Popen([sys.executable, "-P", "-m", "mlflow", "server", *sys.argv[1:]], stdin=subprocess.DEVNULL)
def end():
    sys.stdin.read()
    os.killpg(0, signal.SIGTERM)
threading.Thread(target=end, daemon=True).start()
sys.exit(server.wait())
"""
"""Ends MLflow and itself when its standard input ends, which it does even if the process that started it is killed."""


def where_to_look(work: Workdir) -> Tracking:
    """Where the UI finds a work folder's runs. Raises RlvoError if there are none."""
    tracking = tracking_of(work)
    if (file := tracking.database_file) is not None and not file.is_file():
        raise RlvoError("there is no mlflow.db here", where=file.parent, fix="Name a work folder, as for --workdir")
    return tracking


def choose_port(port: int | None = None) -> int:
    """The port that is named, or else 5000, or else any that is free. Raises RlvoError if the named one is taken."""
    for candidate in (port,) if port is not None else (PORT, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, candidate))
            return int(probe.getsockname()[1])
    raise RlvoError(f"port {port} cannot be used here", where="--port", fix="Name another one, or leave --port out")


@contextmanager
def mlflow_server(work: Workdir, tracking: Tracking, port: int) -> Iterator[subprocess.Popen[Any]]:
    """MLflow's server, which answers within the context and ends with it.

    Raises:
        MachineError: it does not start; the error holds the last line that it wrote.
    """
    arguments = {"backend-store-uri": tracking.uri, "default-artifact-root": tracking.artifacts.as_uri(), "host": HOST}
    options = [f"--{name}={value}" for name, value in {**arguments, "port": port, "workers": 1}.items()]
    with tempfile.TemporaryFile("w+") as log:
        process = start_interpreter(
            CHILD,
            *options,
            environment={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            cwd=work.path,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_for(process, port)
            yield process
        except TimeoutError:
            log.seek(0)
            last = ([""] + [line.strip() for line in log if line.strip()])[-1]
            raise MachineError(f"MLflow's server does not start ({hide_passwords(last)})", where=tracking.uri) from None
        finally:
            assert process.stdin is not None
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOPPING_SECONDS)
            with suppress(ProcessLookupError):  # the whole group is its own
                os.killpg(process.pid, signal.SIGKILL)


def pages_by_study(work: Workdir, tracking: Tracking, address: str) -> dict[str, StudyPages]:
    """The pages of a work folder's studies in the UI at `address`. Raises MachineError if MLflow does not answer."""
    studies = {}
    for folder in sorted(work.studies.glob("*")):
        with suppress(RlvoError):  # that one is damaged; MLflow may show it all the same
            studies[folder.name] = read_config(StudyFolder(folder))
    return all_pages(studies, tracking, address)


def _wait_for(process: subprocess.Popen[Any], port: int) -> None:
    """Wait until the server answers. Raises TimeoutError if it ends, or does not for a long time."""
    deadline = time.monotonic() + STARTING_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5).close()  # nosec B310 # always our own server
            return
        time.sleep(0.2)
    raise TimeoutError
