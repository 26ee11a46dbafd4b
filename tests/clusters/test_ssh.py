"""`ray up` to `ray down` over a real sshd, as ray_cluster/README.md has it.

Two loopback addresses stand in for two machines. sshd gives whoever logs in there a home, a Ray folder and ports of the
machine's own; the ssh client knows sshd's port and key.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support import networks
from support.processes import free_port, wait_until

from rlvo.config.grid import PRESETS
from rlvo.synthetic.cohort import write_synthetic_cohort

REPOSITORY = Path(__file__).parents[2]
HEAD, WORKER = "127.0.0.2", "127.0.0.3"
SSHD = """
Port {port}
ListenAddress {head}
ListenAddress {worker}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
"""
MACHINE = """
Match LocalAddress {address}
    SetEnv HOME={folder}/{name} RAY_TMPDIR={folder}/{name}/t "RAY_START=--node-ip-address {address} {ports} {small}"
"""
SSH = """#!/bin/sh
# `~/ray_bootstrap_key.pem`, with which the head reaches the worker: to ssh, ~ is the account's home.
if [ -f "$HOME/ray_bootstrap_key.pem" ]; then set -- -i "$HOME/ray_bootstrap_key.pem" "$@"; fi
exec {ssh} -F none -p {port} -o StrictHostKeyChecking=yes -o UserKnownHostsFile={folder}/known_hosts "$@"
"""
RAY = """#!/bin/sh
# `ray stop` ends every Ray of an account, and this account has others: here it ends this machine's own.
case $1 in
    stop) pgrep -f "${{RAY_TMPDIR:?}}/" | xargs --no-run-if-empty kill -KILL ;;
    start) exec {ray} "$@" $RAY_START ;;
    *) exec {ray} "$@" ;;
esac
"""
STUDY = "name: ssh\ntraining: {epochs: 2, batch_size: 8}" + networks.STUDY


@dataclass(frozen=True)
class Machines:
    """Where `ray up` is called from, and what it finds."""

    here: Path
    """Working folder with `on_premise.yaml`, filled in, and the token that it names."""
    shared: Path
    environment: dict[str, str]
    folder: Path
    """Below it lie the machines' homes and the files of their Rays."""
    address: str
    """Of the head's Ray."""

    def ray(self, *arguments: str) -> str:
        """What a Ray command prints; it must succeed."""
        done = subprocess.run(
            ["ray", *arguments], cwd=self.here, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def running(self) -> list[psutil.Process]:
        """The processes of both Rays."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(f"{self.folder}/{name}/t/" in " ".join(process.cmdline()) for name in ("head", "worker")):
                    found.append(process)
        return found


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    sshd, ssh = shutil.which("sshd", path="/usr/sbin:/usr/bin"), shutil.which("ssh")
    if not (sshd and ssh and shutil.which("rsync")):
        pytest.skip("no sshd or no rsync on this machine (Debian packages openssh-server, rsync)")
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # Ray's sockets need short paths
    port, gcs = free_port(), free_port()
    programs, venv = folder / "bin", Path(sys.executable).parent
    (here := tmp_path / "here").mkdir()
    (shared := tmp_path / "shared").mkdir()
    programs.mkdir()
    for name, text in {"ssh": SSH, "ray": RAY}.items():
        (programs / name).write_text(text.format(ssh=ssh, ray=venv / "ray", port=port, folder=folder))
        (programs / name).chmod(0o755)
    (folder / "activate").write_text(f"PATH={programs}:{venv}:$PATH; cd\n")
    for key in ("host_key", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    settings = SSHD
    for name, address in {"head": HEAD, "worker": WORKER}.items():
        (folder / name / "t").mkdir(parents=True)
        ports = f"--dashboard-agent-listen-port {free_port()}"
        ports += f" --dashboard-port {free_port()}" if name == "head" else ""
        small = "--num-cpus 1 --object-store-memory 80000000"
        settings += MACHINE.format(folder="{folder}", name=name, address=address, ports=ports, small=small)
    (folder / "sshd_config").write_text(settings.format(port=port, folder=folder, head=HEAD, worker=WORKER))
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text("".join(f"[{address}]:{port} {host_key}" for address in (HEAD, WORKER)))

    here.joinpath("ray.token").write_text(secrets.token_hex(32))
    here.joinpath("on_premise.yaml").write_text(filled_in(folder, shared, str(gcs), f"rlvo-{port}"))
    environment = {**os.environ, "PATH": f"{programs}:{venv}:{os.environ['PATH']}"}
    environment |= {"RAY_TMPDIR": str(folder / "here"), "TMPDIR": str(tmp_path)}
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # as its service makes it at boot
    machines = Machines(here, shared, environment, folder, f"{HEAD}:{gcs}")
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        wait_until(lambda: (folder / "sshd.log").read_text().count("Server listening") == 2, process)
        yield machines
    finally:
        process.terminate()
        process.wait(30)
        for left in machines.running():
            left.kill()
        sockets = hashlib.sha256(f"rlvo-{port}".encode()).hexdigest()[:10]  # where Ray has ssh keep its connections
        for path in (folder, *Path("/tmp").glob(f"ray_ssh_*/{sockets}")):
            shutil.rmtree(path, ignore_errors=True)


def filled_in(folder: Path, shared: Path, port: str, name: str) -> str:
    """The cluster file for these two machines."""
    text = (REPOSITORY / "ray_cluster/on_premise.yaml").read_text()
    for old, new in {
        "cluster_name: rlvo": f"cluster_name: {name}",
        "head.example.org": HEAD,
        "    - gpu1.example.org\n    - gpu2.example.org": f"    - {WORKER}",
        "ssh_user: rlvo": f"ssh_user: {psutil.Process().username()}",
        "~/.ssh/id_ed25519": str(folder / "key"),
        "min_workers: 2": "min_workers: 1",
        "max_workers: 2": "max_workers: 1",
        "/shared/rlvo": str(shared),
        "/local/rlvo": str(folder / "local"),
        "/opt/rlvo/.venv/bin/activate": str(folder / "activate"),
        "grep -qs /opt/rlvo": f"grep -qs {folder}",
        "6379": port,
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_study_on_machines_reached_by_ssh(machines: Machines) -> None:
    cluster, shared = "on_premise.yaml", machines.shared
    write_synthetic_cohort(shared / "cohort", patients=24, profile="demo", seed=0, grid=PRESETS["focus"], workers=1)
    (machines.here / "tune_configs").mkdir()
    (machines.here / "tune_configs/ssh.yaml").write_text(STUDY)

    machines.ray("up", "--yes", cluster)
    wait_until(lambda: nodes(machines) == [HEAD, WORKER])
    for name in ("head", "worker"):
        token = machines.folder / name / ".ray/auth_token"
        assert token.read_bytes() == (machines.here / "ray.token").read_bytes()
        assert token.stat().st_mode & 0o077 == 0

    machines.ray("rsync-up", cluster, "tune_configs/", "~/tune_configs/")
    search = ["search", "~/tune_configs/ssh.yaml", "--cohort", f"{shared}/cohort/cohort.csv"]
    search += ["--workdir", f"{shared}/work", "--address", machines.address]
    told = machines.ray("submit", cluster, str(REPOSITORY / "rlvo/cli/main.py"), "--", *search)
    assert "2/2 trials" in told, "progress reaches the terminal"
    assert "2/2 trials finished" in machines.ray("exec", cluster, f"rlvo status ssh --workdir {shared}/work")
    machines.ray("rsync-down", cluster, f"{shared}/work/studies/ssh/", "fetched/")
    records = (machines.here / "fetched").rglob("record.json")
    assert [json.loads(record.read_text())["status"] for record in records] == ["finished", "finished"]

    machines.ray("down", "--yes", cluster)
    wait_until(lambda: not machines.running())  # the worker's Ray ends itself when its head is gone


def nodes(machines: Machines) -> list[str]:
    """Addresses of the nodes that the head knows to be alive."""
    listed = "[node['NodeManagerAddress'] for node in ray.nodes() if node['Alive']]"
    program = f"import json, ray; ray.init('{machines.address}'); print(); print(json.dumps(sorted({listed})))"
    (line,) = re.findall(r"^\[.*\]", machines.ray("exec", "on_premise.yaml", f'python -c "{program}"'), re.MULTILINE)
    return [str(address) for address in json.loads(line)]
