"""The one connection to Ray: local or to a cluster, quiet, bounded in time, on storage that all nodes share."""

import gc
import logging
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from unittest import mock

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlvo.digits import gigabytes
from rlvo.errors import MachineError, RlvoError
from rlvo.termination import deaf_to_sigterm

CONNECT_SECONDS = 10
NODE_SECONDS = 120
"""How long a node may take to answer: it has to start a worker first."""
OBJECT_STORE_BYTES = 128 * 2**20
"""Trials read volumes from the store; only a table and a mask travel through Ray."""

SOCKET = "r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""As Ray names the longest one, with the longest number of a process."""
SOCKET_BYTES = 107
"""The longest path that a socket may have."""


class NotSharedError(RlvoError):
    """A node of the cluster does not see what the other nodes see."""


@contextmanager
def ray_session(folders: Sequence[Path], address: str | None = None) -> Iterator[bool]:
    """A Ray to run trials on, for the length of the context; one that is connected already is used and left running.

    Args:
        folders: what trials read and write; every node of a cluster must share them.
        address: of a cluster; None: `RAY_ADDRESS`, or else a Ray on this machine alone.

    Yields:
        Whether Ray was started on this machine.

    Raises:
        MachineError: no Ray answers at the address, or none starts on this machine.
        NotSharedError: a node does not see a folder.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if not is_local(address):
        with connect_to_cluster(address or "auto"), ExitStack() as marks:
            for folder in folders:
                marks.enter_context(shared(folder))
            yield False
        return
    try:
        own = {
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(private_folder()),
        }
        _name_token()
        with _without_cluster_services():
            _start_ray("local", num_cpus=os.cpu_count(), **own)
    except Exception as error:  # noqa: BLE001
        # Ray raises bare ones, e.g. if the machine is so busy that its processes start too late.
        _shut_down()
        reason, fix = " ".join(str(error).split()), "If the machine was overloaded, run the same command again"
        raise MachineError(f"Ray did not start on this machine ({reason})", fix=fix) from None
    try:
        yield True
    finally:
        _shut_down()


def private_folder() -> Path:
    """Where our own Ray keeps its sessions. What Ray makes is open to everyone: sockets, logs, code that it unpickles.

    It is in `$RAY_TMPDIR`, or else in `$TMPDIR`, or in /tmp if paths of sockets in `$TMPDIR` would be too long.

    Raises OSError if it cannot be made.
    """
    name = f"rlvo-{os.getuid()}"
    place = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    if not os.environ.get("RAY_TMPDIR") and len(os.fsencode(place / name / SOCKET)) > SOCKET_BYTES:
        place = Path("/tmp")  # nosec B108 # the folder in it is ours alone, or it is another
    folder = place / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():  # someone was here first
        folder = Path(tempfile.mkdtemp(prefix="rlvo-", dir=place))
    folder.chmod(0o700)
    return folder / "r"  # Ray opens the folder that it is given to everyone, but not the one above it


def _name_token() -> None:
    """Name the token of our own Ray if Ray, which keeps it in the home folder, cannot write there."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    try:
        place = Path.home() / ".ray"
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except (OSError, RuntimeError):  # there is no home, or it is not ours
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def is_local(address: str | None) -> bool:
    """Whether a session with this address is one of this machine alone, which is yet to be started."""
    return not (address or os.environ.get("RAY_ADDRESS") or ray.is_initialized())


def check_resources(
    *, cpus: float, gpus: float, memory: float = 0.0, available: Mapping[str, float] | None = None
) -> None:
    """Raise RlvoError if there is too little for one trial: Tune would wait for ever.

    Args:
        memory: bytes.
        available: what there is, by Ray's names; None: what the connected Ray has.
    """
    available = ray.cluster_resources() if available is None else available
    for kind, wanted in {"CPU": cpus, "GPU": gpus}.items():
        if wanted > available.get(kind, 0):
            raise RlvoError(
                f"a trial asks for {wanted:g} {kind}, but this machine has {available.get(kind, 0):g}",
                where="resources",
                fix=f"Ask for less (resources.{kind.lower()}s), or name a cluster with --address",
            )
    if memory > (has := available.get("memory", 0.0)):
        need, left = gigabytes(memory, has)
        raise RlvoError(
            f"a trial asks for {need} of memory, but Ray has {left} of this machine",
            where="resources.memory_gb",
            fix="Ask for less, or name a cluster with --address",
        )


@contextmanager
def connect_to_cluster(address: str) -> Iterator[None]:
    """The Ray at `address`, for the length of the context; one that is connected already is used and left running.

    Args:
        address: `host:port`, `ray://host:port` or `auto`.

    Raises:
        MachineError: no Ray answers there.
    """
    if ray.is_initialized():
        yield
        return
    try:
        check_address(address)
        _start_ray(address)
    except OSError as error:
        raise _no_cluster(address, error) from None
    try:
        yield
    finally:
        _shut_down()


def cluster_resources(address: str) -> dict[str, float]:
    """What the cluster at `address` has in all, by Ray's names: `CPU`, `GPU`. Raises MachineError if none answers."""
    with connect_to_cluster(address):
        return dict(ray.cluster_resources())


def _shut_down() -> None:
    """`ray.shutdown`, while no thread looks for garbage: to free a reference of Ray's then ends the process at once.

    The processes of our own Ray are killed, with all that they started: they do not hear SIGTERM, for which Ray would
    wait a second each.
    """
    descendants = _descendants_of_own_ray()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        with mock.patch.object(subprocess.Popen, "terminate", subprocess.Popen.kill):
            ray.shutdown()
    finally:
        if was_enabled:
            gc.enable()
        for process in descendants:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _descendants_of_own_ray() -> list[psutil.Process]:
    """Workers and agents of a Ray that this process started; none if it is connected to another's.

    Private API of Ray: it does not tell the processes that it started.
    """
    node, found = ray._private.worker._global_node, []
    for started in node.all_processes.values() if node else ():
        for info in started:
            with suppress(psutil.NoSuchProcess):
                found += psutil.Process(info.process.pid).children(recursive=True)
    return found


def _no_cluster(address: str, error: OSError) -> MachineError:
    what = f"no Ray cluster answers ({error})"
    return MachineError(what, where=address, fix="Check --address or RAY_ADDRESS")


def check_address(address: str) -> None:
    """Raise OSError if nothing listens at `host:port`: Ray would try for many minutes, logging all the while."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _start_ray(address: str, **options: object) -> None:
    """`ray.init` without a word, after which SIGTERM does what it did before."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _silence_notices()
    with deaf_to_sigterm(), _own_sigterm():
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)


@contextmanager
def _without_cluster_services() -> Iterator[None]:
    """Start Ray without its autoscaler, log monitor and dashboard: one machine needs none, and they take seconds.

    Private API of Ray, which has no switch for the first two, and starts a server without a dashboard in place of one.
    """

    def skip(node: object, **options: object) -> None:
        """Start nothing."""

    node = ray._private.node.Node
    with mock.patch.multiple(node, start_monitor=skip, start_log_monitor=skip, start_api_server=skip):
        yield


def _silence_notices() -> None:
    """Private API of Ray: it prints notices to standard output, where `--json` goes, and has no switch for them."""
    ray._private.worker._worker_logs_enabled = False


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep our handler of SIGTERM, if there is one: Ray's end the process at once, with a C++ trace on the console.

    Ray's Python handlers are set by a private function of it; its C++ one can only be replaced afterwards.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    with mock.patch.object(ray._private.utils, "set_sigterm_handler"):
        yield
    signal.signal(signal.SIGTERM, handler)


@contextmanager
def shared(folder: Path) -> Iterator[Path]:
    """Check that all nodes of the connected cluster share `folder`: each reads what this one writes, and vice versa.

    Yields:
        A marker file in it, by which a node that joins later can tell too: its own folder of that name has none.

    Raises:
        NotSharedError: a node does not share it.
        MachineError: the folder is not writable here, or a node does not answer.
    """
    try:
        marker = folder / f".shared-{secrets.token_hex(8)}" / "mark"
        marker.parent.mkdir(parents=True)
        marker.write_text(marker.parent.name)
    except OSError as error:
        raise MachineError(f"cannot be written: {error.strerror or error}", where=folder) from None
    try:
        for node, answer in _ask_every_node(marker):
            try:
                written = ray.get(answer, timeout=NODE_SECONDS)
            except RayError as error:
                where = f"the cluster's node {node}"
                raise MachineError(f"does not answer ({type(error).__name__})", where=where) from None
            if not written or not (marker.parent / written).exists():
                raise not_shared(folder, node)
        yield marker
    finally:
        shutil.rmtree(marker.parent, ignore_errors=True)


def not_shared(path: Path, node: str | None = None) -> NotSharedError:
    """The error for a path that a node (None: this one) does not see."""
    what = f"the cluster's node {node or socket.gethostname()} does not see this path, or cannot write to it"
    fix = "Keep cohort, store and studies on storage that every node mounts under the same path"
    return NotSharedError(what, where=path, fix=fix)


def _ask_every_node(marker: Path) -> list[tuple[str, ray.ObjectRef]]:
    """Each node's name and address, so that a person can find it, and its pending answer."""
    task, asked = ray.remote(num_cpus=0, max_retries=0)(_answer), []
    for node in ray.nodes():
        if node["Alive"]:
            on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            asked.append((name, task.options(scheduling_strategy=on_node).remote(marker, node["NodeID"])))
    return asked


def _answer(marker: Path, name: str) -> str | None:
    """Runs on a node: read the marker and leave a file called `name` beside it; None if either fails."""
    try:
        if marker.read_text() != marker.parent.name:
            return None
        (marker.parent / name).touch()
    except OSError:
        return None
    return name
