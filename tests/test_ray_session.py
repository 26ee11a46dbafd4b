"""Refusals before a search would hang."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rlvo.errors import RlvoError
from rlvo.ray_session import check_address, check_resources


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


@pytest.mark.usefixtures("ray_session")
def test_a_trials_share_must_fit_the_machine() -> None:
    check_resources(cpus=2, gpus=0)
    with pytest.raises(RlvoError, match="99 CPU, but this machine has 2"):
        check_resources(cpus=99, gpus=0)
    with pytest.raises(RlvoError, match="1 GPU"):
        check_resources(cpus=1, gpus=1)
