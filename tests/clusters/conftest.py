"""Real services on the loopback address: Postgres, and the team's MLflow server as mlflow/server.sh starts it."""

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from support.growing import LAUNCHES, GrowingProvider
from support.mlflow_server import is_up
from support.processes import free_port, kill_node, listens, wait_until

REPOSITORY = Path(__file__).parents[2]
PASSWORD = "p@ss/w%rd:1"
"""Of the database; every character of it that means something in an address or in an ini file must survive."""
ENCODED = "p%40ss%2Fw%25rd%3A1"
ADMIN_PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class TeamServer:
    """A running server and what its start script left."""

    uri: str
    settings: Path
    artifacts: Path
    database: str
    pid: int


@pytest.fixture(scope="session")
def postgres_bin() -> Path:
    """The folder of Postgres' programs."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in [*folders, *(Path(found).parent for found in filter(None, [shutil.which("initdb")]))]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("no Postgres on this machine (Debian package postgresql)")


@pytest.fixture(scope="session")
def postgres(postgres_bin: Path) -> Iterator[str]:
    """A new Postgres on a free port, never run as root; gives the address of its empty database `mlflow`."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("no psycopg in this environment (pip install 'psycopg[binary]')")
    user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="rlvo-postgres-"))
    (folder / "password").write_text(PASSWORD)
    if user:
        for path in (folder, folder / "password"):
            shutil.chown(path, **user)

    def run(*command: str, **environment: str) -> None:
        arguments = [str(postgres_bin / command[0]), *command[1:]]
        subprocess.run(
            arguments, check=True, capture_output=True, cwd=folder, env={**os.environ, **environment}, **user
        )  # type: ignore[call-overload]

    as_mlflow = ["-U", "mlflow", "-A", "scram-sha-256", "--pwfile", str(folder / "password")]
    run("initdb", "-D", str(folder / "data"), *as_mlflow)
    options = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [postgres_bin / "postgres", "-D", folder / "data", *options], stdout=log, stderr=log, **user
        )  # type: ignore[call-overload]
    try:
        ready = [str(postgres_bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        wait_until(lambda: subprocess.run(ready).returncode == 0, process)
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow", PGPASSWORD=PASSWORD)
        yield f"postgresql://mlflow:{ENCODED}@127.0.0.1:{port}/mlflow"
    finally:
        process.send_signal(signal.SIGINT)  # a fast shutdown, which ends its connections
        process.wait(30)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def team_server(
    postgres: str,
    serve: Callable[[str, Path], AbstractContextManager[TeamServer]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TeamServer]:
    """The team's server behind Postgres, started as README.md says."""
    with serve(postgres, tmp_path_factory.mktemp("team server")) as server:
        yield server


@pytest.fixture(scope="session")
def serve() -> Callable[[str, Path], AbstractContextManager[TeamServer]]:
    """Start a team server on a database and a folder, which may hold `artifacts` already."""
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("no Flask-WTF in this environment (pip install 'mlflow[auth]')")
    return _serve


@contextlib.contextmanager
def _serve(database: str, folder: Path) -> Iterator[TeamServer]:
    port = free_port()
    values = {
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_ARTIFACTS_DESTINATION": f"'{folder / 'artifacts'}'",
        "MLFLOW_AUTH_ADMIN_PASSWORD": f"'{ADMIN_PASSWORD}'",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "0" * 64,
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port}",
        "MLFLOW_PORT": str(port),
        "MLFLOW_WORKERS": "1",
    }
    settings = folder / "server.env"
    settings.write_text(_filled_in((REPOSITORY / "mlflow/server.env.example").read_text(), values))
    settings.chmod(0o600)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [REPOSITORY / "mlflow/server.sh", settings],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        uri = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_up(port), process)
        yield TeamServer(uri, settings, folder / "artifacts", database, process.pid)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def _filled_in(text: str, values: dict[str, str]) -> str:
    lines = text.splitlines()
    for name, value in values.items():
        (place,) = (number for number, line in enumerate(lines) if line.startswith(f"{name}="))
        lines[place] = f"{name}={value}"
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Cluster:
    """A Ray of two nodes with a CPU each, behind a token."""

    address: str
    dashboard: str
    environment: dict[str, str]
    """What a user's shell has: the token, and a home with MLflow's credentials."""
    nodes: tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]
    """`ray start --block` of head and worker; each leads a process group."""


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[Cluster]:
    """Two nodes on this machine, with folders of their own, as ray_cluster/README.md starts them by hand."""
    bin_folder, scratch = Path(sys.executable).parent, Path(tempfile.mkdtemp(prefix="ray-"))  # sockets need short paths
    (home := tmp_path / "home").mkdir()
    (home / "ray.token").write_text(secrets.token_hex(32))
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(home / "ray.token"),
    }
    port, dashboard = free_port(), free_port()
    head = ["--head", "--port", str(port), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
    nodes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> None:
        command = ["ray", "start", "--block", *arguments, "--node-ip-address", "127.0.0.1", "--num-cpus", "1"]
        command += ["--temp-dir", str(scratch / name), "--object-store-memory", str(80 * 2**20)]
        command += ["--dashboard-agent-listen-port", str(free_port())]  # by itself every node takes the same
        with (scratch / f"{name}.log").open("wb") as log:
            nodes.append(
                subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True)
            )

    try:
        start("head", *head)
        wait_until(lambda: listens(dashboard), nodes[0])
        start("worker", "--address", f"127.0.0.1:{port}")
        yield Cluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", environment, (nodes[0], nodes[1]))
    finally:
        for node in reversed(nodes):
            kill_node(node)
        shutil.rmtree(scratch, ignore_errors=True)


COMMANDS = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
            "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")  # fmt: skip
"""What an autoscaler runs and copies on machines of its own; it insists on having them."""


@dataclass(frozen=True)
class GrowingCluster:
    """A Ray whose autoscaler starts its workers when trials wait."""

    address: str
    environment: dict[str, str]
    """What a user's shell has."""
    requests: Path
    """A line for each request for nodes: how many."""

    def launches(self) -> list[int]:
        """How many nodes the autoscaler asked for, request by request."""
        return [int(line) for line in self.requests.read_text().split()] if self.requests.exists() else []


@pytest.fixture
def growing_cluster(tmp_path: Path) -> Iterator[GrowingCluster]:
    """A head without a core, and up to three workers of one core that Ray's own autoscaler starts and ends."""
    bin_folder, scratch = Path(sys.executable).parent, Path(tempfile.mkdtemp(prefix="ray-"))
    port, requests = free_port(), tmp_path / "launches.txt"
    clouds = yaml.safe_load((REPOSITORY / "ray_cluster/aws.yaml").read_text())
    memory = 80 * 2**20
    worker = {"resources": {"CPU": 1, "memory": 10**9, "object_store_memory": memory}, "node_config": {}}
    config = {
        "cluster_name": "growing",
        "max_workers": 3,
        "upscaling_speed": clouds["upscaling_speed"],
        "idle_timeout_minutes": 60,
        "provider": {
            "type": "external",
            "module": f"{GrowingProvider.__module__}.{GrowingProvider.__qualname__}",
            "gcs_address": f"127.0.0.1:{port}",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {**worker, "min_workers": 0, "max_workers": 3},
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        **{name: [] for name in COMMANDS},
    }
    (tmp_path / "growing.yaml").write_text(json.dumps(config))
    (tmp_path / "ray.token").write_text(secrets.token_hex(32))
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "ray.token"),
    }
    of_autoscaler = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        LAUNCHES: str(requests),
    }
    command = ["ray", "start", "--head", "--block", "--port", str(port), "--node-ip-address", "127.0.0.1"]
    command += ["--num-cpus", "0", "--object-store-memory", str(memory), "--temp-dir", str(scratch / "r")]
    command += ["--include-dashboard", "false", "--dashboard-agent-listen-port", str(free_port())]
    command += ["--autoscaling-config", str(tmp_path / "growing.yaml")]
    with (scratch / "head.log").open("wb") as log:
        head = subprocess.Popen(
            command, cwd=tmp_path, env=environment | of_autoscaler, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_until(lambda: listens(port), head)
        yield GrowingCluster(f"127.0.0.1:{port}", environment, requests)
    finally:
        kill_node(head)  # with its autoscaler, whose children the workers are
        shutil.rmtree(scratch, ignore_errors=True)
