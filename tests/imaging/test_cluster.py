"""Preparation over a real Ray: unshared storage, dead workers, no cluster; for results see test_cohort_preparation."""

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import psutil
import pytest
from support.heads import head_on
from support.volumes import FOCUS, write_rows

from rlvo.config.grid import PRESETS
from rlvo.errors import MachineError, RlvoError
from rlvo.imaging.cluster import _prepare, prepare_on_cluster
from rlvo.imaging.store import VolumeStore
from rlvo.imaging.target import Target
from rlvo.ray_session import NotSharedError

TARGET = Target(grid=FOCUS)
CONNECT = "import sys, rlvo.ray_session as ray; ray.connect_to_cluster(sys.argv[1]).__enter__()"


@contextmanager
def killing(times: int) -> Iterator[list[int]]:
    """Kill that many of this process's Ray workers as they prepare; yields those killed."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.01) and len(killed) < times:
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.cmdline()[:1] == ["ray::_prepare"] and process.pid not in killed and len(killed) < times:
                        process.send_signal(signal.SIGKILL)
                        killed.append(process.pid)
                except psutil.NoSuchProcess:
                    continue

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_store_that_a_node_cannot_write_is_the_machines_fault(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, ("1",))
    store = VolumeStore(tmp_path / "store")
    store.path.mkdir()
    (store.path / store.address(TARGET, rows["1"])[:2]).write_text("a file where a folder should be")
    with pytest.raises(MachineError, match="cannot write the store"):
        list(prepare_on_cluster(rows, TARGET, store, address="auto"))
    with pytest.raises(NotSharedError, match=r"the cluster.s node .* does not see this"):
        _prepare(store, "1", rows["1"], TARGET, tmp_path / "no mark", False)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_dead_workers_are_tried_again_and_in_the_end_are_the_machines_fault(tmp_path: Path) -> None:
    one = {"large": {"ncct": tmp_path / "large.nii"}}  # takes long enough to be killed at work
    grid = PRESETS["paper"]
    nibabel.save(nibabel.Nifti1Image(head_on(grid).astype("int16"), grid.affine), one["large"]["ncct"])
    target = Target(grid=grid)
    store = VolumeStore(tmp_path / "store")
    with killing(1) as killed:
        ((_, outcome),) = prepare_on_cluster(one, target, store, address="auto")
        assert not isinstance(outcome, RlvoError)
        assert store.verify(outcome.address)
        assert len(killed) == 1
    with killing(99), pytest.raises(MachineError, match="worker died 3 times"):
        list(prepare_on_cluster(one, target, VolumeStore(tmp_path / "other"), address="auto"))


def test_a_missing_cluster_is_reported_at_once(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        # Another process: this one may have a Ray, which would be used.
        process = subprocess.run([sys.executable, "-c", CONNECT, address], capture_output=True, text=True, check=False)
    assert f"MachineError: {address}: no Ray cluster answers" in process.stderr.splitlines()[-1]
