"""The scripts that start a Ray really do, and end it."""

import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.processes import free_port, wait_until

pytestmark = pytest.mark.cluster
FOLDER = Path(__file__).parents[2] / "ray_cluster"
STUBS = {
    "scontrol": 'test "$*" = "show hostnames node[1-1]" && echo 127.0.0.1',
    "srun": 'while [ "$1" != ray ]; do shift; done; exec "$@" --object-store-memory 80000000',
    "rlvo": 'test "$1 $2 $3" = "search study.yaml --address" && exec python "$(dirname "$0")/driver.py" "$4"',
}
"""What SLURM does on one node, and a driver instead of a study."""
DRIVER = """
import os, sys, ray
ray.init(sys.argv[1], log_to_driver=False)
print(ray.get(ray.remote(lambda: (os.environ["RAY_AUTH_MODE"], ray.cluster_resources()["CPU"])).remote()))
"""


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for Ray, whose sockets need short paths."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def environment(folder: Path, **values: str) -> dict[str, str]:
    path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HOME": str(folder), **values}


def test_a_slurm_job_starts_a_ray_and_ends_it(tmp_path: Path, short_path: Path) -> None:
    for name, program in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "driver.py").write_text(DRIVER)
    job = str(free_port())
    slurm = {"SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "node[1-1]", "SLURM_JOB_NUM_NODES": "1"}
    done = subprocess.run(
        ["bash", FOLDER / "slurm.sbatch", "search", "study.yaml"],
        env=environment(tmp_path, **slurm, SLURM_CPUS_PER_TASK="3", TMPDIR=str(short_path)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "('token', 3.0)" in done.stdout
    assert not [line for line in command_lines() if f"ray-{job}" in line]


def test_one_machines_ray_asks_for_the_token(tmp_path: Path, short_path: Path) -> None:
    script, token = FOLDER / "one_machine.sh", tmp_path / "ray.token"
    done = subprocess.run([script, token], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{token}: no token here")
    token.write_text("0" * 64)
    port, dashboard = str(free_port()), str(free_port())
    ports = {"RAY_PORT": port, "RAY_DASHBOARD_PORT": dashboard, "RAY_AGENT_PORT": str(free_port())}
    values = environment(tmp_path, **ports, RAY_TMPDIR=str(short_path))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([script, token], env=values, cwd=tmp_path, stdout=log, stderr=log)

    def status() -> int | None:
        try:
            return int(urllib.request.urlopen(f"http://127.0.0.1:{dashboard}/api/jobs/", timeout=5).status)
        except urllib.error.HTTPError as refused:
            return refused.code
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    try:
        wait_until(status, process)
        assert status() == 401
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    wait_until(lambda: not [line for line in command_lines() if f"gcs_server_port={port}" in line])


def command_lines() -> list[str]:
    return [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
