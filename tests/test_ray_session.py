"""Refusals before a search would hang."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rlvo.errors import RlvoError
from rlvo.ray_session import check_address, check_resources, private_folder


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_must_answer(scheme: str) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConnectionRefusedError):
            check_address(address)
        server.listen()
        check_address(address)


@pytest.mark.slow
def test_a_ray_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    program = "from rlvo.ray_session import ray_session\nwith ray_session([]): pass"
    too_long = {**os.environ, "RAY_TMPDIR": str(tmp_path / ("x" * 100))}  # for the path of a socket
    ended = subprocess.run([sys.executable, "-c", program], env=too_long, capture_output=True, text=True, check=False)
    error = ended.stderr.splitlines()[-1]
    assert "MachineError: Ray did not start on this machine (" in error
    assert "run the same command again" in error


def test_our_rays_folder_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if one was left open, or another user made a link in its place."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    folder = private_folder().parent
    assert (folder.parent, folder.stat().st_mode & 0o777) == (tmp_path / "ray", 0o700)
    folder.chmod(0o777)
    assert private_folder().parent == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    (tmp_path / "theirs").mkdir(mode=0o777)
    folder.symlink_to(tmp_path / "theirs")
    other = private_folder().parent
    assert other.resolve() not in (folder.resolve(), folder)
    assert other.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("spare", "is_there"), [(0, True), (-1, False)])
def test_a_path_too_long_for_sockets_is_left_for_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: int, is_there: bool
) -> None:
    """`spare`: bytes left between the path of Ray's longest socket and what the system allows."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    session = f"rlvo-{os.getuid()}/r/session_2026-11-30_04-26-01_123456_4194304/sockets/plasma_store"
    place = Path(tempfile.mkdtemp(prefix="é", dir="/tmp"))
    try:
        long = place / ("x" * (107 - spare - len(os.fsencode(f"{place}//{session}"))))
        long.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(long))
        assert private_folder().parent.parent == (long if is_there else Path("/tmp"))
    finally:
        shutil.rmtree(place)


@pytest.mark.slow
def test_our_ray_keeps_its_session_there(tmp_path: Path) -> None:
    """Nor does it need a home that can be written."""
    program = "import ray\nfrom rlvo.ray_session import ray_session\nwith ray_session([]):\n"
    program += "    print(ray._private.worker._global_node.get_session_dir_path())"
    with tempfile.TemporaryDirectory(prefix="r") as place:  # pytest's would be too long for the path of a socket
        environment = {**os.environ, "RAY_TMPDIR": place, "HOME": "/proc/nobody"}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        session = Path(done.stdout.split()[-1])
        private = Path(place) / f"rlvo-{os.getuid()}"
        assert session.parent.parent == private
        assert private.stat().st_mode & 0o777 == 0o700


TERMINATED = """
import os, signal, psutil, ray
from rlvo.ray_session import ray_session

def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE

heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
with ray_session([]):
    square = ray.remote(lambda number: number**2)
    ray.get(square.remote(2))
    started = psutil.Process().children(recursive=True)
    os.killpg(0, signal.SIGTERM)
    print(ray.get(square.remote(3)), heard, len(started) > 3, all(map(alive, started)))
psutil.wait_procs(started, timeout=30)
print([process.name() for process in started if alive(process)])
"""


@pytest.mark.slow
def test_a_sigterm_to_all_processes_reaches_only_ours_and_none_of_rays_stays_behind() -> None:
    done = subprocess.run([sys.executable, "-c", TERMINATED], capture_output=True, text=True, start_new_session=True)
    assert (done.returncode, done.stdout) == (0, "9 [True] True True\n[]\n"), done.stderr


WITH_GARBAGE = """
import threading
import ray
from ray._private.worker import global_worker
from rlvo.ray_session import ray_session

class Loop:
    pass

class Core:
    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)

    def shutdown_driver(self):
        self.real.shutdown_driver()
        other = threading.Thread(target=lambda: [[] for _ in range(1_000_000)])  # as many as make Python look
        other.start()
        other.join()

with ray_session([]):
    global_worker.core_worker = Core(global_worker.core_worker)
    loop = Loop()
    loop.itself, loop.reference = loop, ray.put(1)
    del loop
print("it goes on")
"""


@pytest.mark.slow
def test_garbage_of_rays_that_another_thread_finds_does_not_end_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", WITH_GARBAGE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "it goes on\n"), done.stderr


@pytest.mark.usefixtures("ray_session")
def test_a_trials_share_must_fit_the_machine() -> None:
    check_resources(cpus=2, gpus=0)
    with pytest.raises(RlvoError, match="99 CPU, but this machine has 2"):
        check_resources(cpus=99, gpus=0)
    with pytest.raises(RlvoError, match="1 GPU"):
        check_resources(cpus=1, gpus=1)
    check_resources(cpus=1, gpus=0, memory=1e6)
    with pytest.raises(RlvoError, match=r"memory_gb: a trial asks for 1000000.0 GB of memory, but Ray has \d.* GB"):
        check_resources(cpus=1, gpus=0, memory=1e15)
