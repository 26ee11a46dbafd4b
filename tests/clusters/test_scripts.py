"""The scripts that start a Ray really do, and end it."""

import contextlib
import os
import shlex
import shutil
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
from mlflow import MlflowClient
from support.documents import FENCE
from support.processes import free_port, listens, wait_until
from support.tiny_study import write_cohort
from support.victim import Victim, check_mlflow

from rlvo.training.records import read_record

pytestmark = pytest.mark.cluster
FOLDER = Path(__file__).parents[2] / "ray_cluster"
STUBS = {
    "scontrol": 'test "$*" = "show hostnames node[1-1]" && echo 127.0.0.1',
    "srun": """test "$SRUN_CPUS_PER_TASK" = 3 || exit 1
while [ "$1" != ray ]; do shift; done
exec "$@" --object-store-memory 80000000""",
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


def test_a_slurm_job_starts_a_ray_and_ends_it(tmp_path: Path) -> None:
    (long_path := tmp_path / "a-folder-of-the-job-whose-path-is-longer-than-sockets-may-have").mkdir()
    for name, program in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "driver.py").write_text(DRIVER)
    job = str(free_port())
    slurm = {"SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "node[1-1]", "SLURM_JOB_NUM_NODES": "1"}
    done = subprocess.run(
        ["bash", FOLDER / "slurm.sbatch", "search", "study.yaml"],
        env=environment(tmp_path, **slurm, SLURM_CPUS_PER_TASK="3", TMPDIR=str(long_path)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "('token', 3.0)" in done.stdout
    assert not [line for line in command_lines() if f"ray-{job}" in line]
    shutil.rmtree(f"/tmp/ray-{job}")


def test_one_machines_ray_asks_for_the_token(tmp_path: Path, short_path: Path) -> None:
    script, token = FOLDER / "one_machine.sh", tmp_path / "ray.token"
    done = subprocess.run([script, token], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{token}: no token here")
    token.write_text("0" * 64)
    port, dashboard = str(free_port()), str(free_port())
    ports = {"RAY_PORT": port, "RAY_DASHBOARD_PORT": dashboard, "RAY_AGENT_PORT": str(free_port())}
    ports["RAY_CLIENT_PORT"] = str(free_port())
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


@pytest.mark.timeout(900)
def test_the_readmes_commands_for_one_machine_run_as_written(tmp_path: Path, short_path: Path) -> None:
    """From zero to a search that `ray job stop` ends in good order and another job continues."""
    victim = Victim(tmp_path, write_cohort(tmp_path / "cohort").parent, epochs=15)
    repository = copy_repository(tmp_path / "repository", victim)
    text = (FOLDER / "README.md").read_text().partition("## From zero: one machine")[2].partition("\n## ")[0]
    [block] = FENCE.findall(text)
    create, start, export, submit = (line for line in block[1].replace("\\\n", " ").splitlines() if line)
    stop, follow = "ray job stop paper_grid", "ray job logs --follow paper_grid"
    assert f"`{stop}`" in text
    assert f"`{follow}`" in text
    dashboard = free_port()
    ports = {f"RAY_{name}_PORT": str(free_port()) for name in ("AGENT", "CLIENT")}
    ports |= {"RAY_PORT": str(free_port()), "RAY_DASHBOARD_PORT": str(dashboard), "RAY_TMPDIR": str(short_path)}
    values = {**os.environ, "HOME": str(tmp_path), **ports}
    values.pop("PYTHONPATH", None)

    def shell(*lines: str) -> subprocess.CompletedProcess[str]:
        """Lines of a shell that has what README sets, on this test's ports and folders."""
        places = {"/shared/cohort": str(victim.cohort), "/shared/rlvo-work": str(victim.work), ":8265": f":{dashboard}"}
        program = "\n".join(lines)
        for written, here in places.items():
            program = program.replace(written, here)
        own = {**values, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.run(["bash", "-ec", program], env=own, cwd=repository, capture_output=True, text=True)

    assert shell(create).returncode == 0
    arguments = shlex.split(start, comments=True)
    with (tmp_path / "log").open("wb") as log:  # its PATH has no packages of ours: the script finds them
        process = subprocess.Popen(arguments, env=values, cwd=repository, stdout=log, stderr=log)
    try:
        wait_until(lambda: listens(dashboard), process)
        wait_until(lambda: shell(export, submit).returncode == 0, process)
        wait_until(lambda: victim.epoch_count() > 5, process)
        check_loopback(process.pid, dashboard, ports)
        stopped = shell(export, stop)
        assert stopped.returncode == 0, stopped.stderr
        said = shell(export, follow).stdout
        assert "interrupted: run the same command again to continue" in said
        assert "*** SIGTERM" not in said
        client = MlflowClient(victim.database)
        runs = client.search_runs([client.get_experiment_by_name("victim").experiment_id])
        finished = {record.identity.key for trial in victim.ended() if (record := read_record(trial)) is not None}
        for run in runs:  # a trial may have finished before the job was stopped; whatever had not was killed
            is_finished = run.data.tags["rlvo.kind"] == "trial" and run.data.tags["rlvo.identity"] in finished
            assert run.data.tags["rlvo.kind"] == "configuration" or (run.info.status == "FINISHED") == is_finished
        assert {run.info.status for run in runs} <= {"KILLED", "FINISHED"}
        before = victim.epochs()
        again = shell(export, submit.replace("--submission-id paper_grid --no-wait", "--submission-id again"))
        assert again.returncode == 0, again.stdout + again.stderr
        assert all(victim.epochs()[trial][: len(lines)] == lines for trial, lines in before.items())
        check_mlflow(victim, victim.database)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def copy_repository(folder: Path, victim: Victim) -> Path:
    """What the commands need of the repository, with a small study in the place of the paper's."""
    for name in ("rlvo", "ray_cluster", "tune_configs"):
        shutil.copytree(FOLDER.parent / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(victim.root / "victim.yaml", folder / "tune_configs" / "paper_grid.yaml")
    (folder / ".venv").symlink_to(Path(sys.prefix))
    return folder


def check_loopback(pid: int, dashboard: int, ports: dict[str, str]) -> None:
    """Whatever takes a program from a caller (jobs, clients, the agent) listens on loopback."""
    served = {dashboard, int(ports["RAY_AGENT_PORT"]), int(ports["RAY_CLIENT_PORT"])}
    found = {}
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # workers come and go; what is served stays
            for each in process.net_connections():
                if each.status == "LISTEN" and each.laddr.port in served:
                    found.setdefault(each.laddr.port, set()).add(each.laddr.ip.removeprefix("::ffff:"))
    assert set(found) == served
    assert set.union(*found.values()) <= {"127.0.0.1", "127.0.0.2"}


def command_lines() -> list[str]:
    return [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
