"""The cluster files say what Ray, Kubernetes, SLURM and Docker understand, and open no door."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "ray_cluster"
SCRIPTS = [*sorted(FOLDER.glob("*.sh")), FOLDER / "slurm.sbatch", *sorted((REPOSITORY / "mlflow").glob("*.sh"))]
LAUNCHED = ["on_premise.yaml", "aws.yaml", "gcp.yaml"]


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def pinned(package: str) -> str:
    (version,) = re.findall(rf"^{package}==(.+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    return str(version)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck on this machine (Debian package shellcheck)")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["partition", "account"])
def test_a_slurm_job_with_a_placeholder_is_refused_in_one_line(name: str) -> None:
    script = FOLDER / "slurm.sbatch"
    assert f"#SBATCH --{name}={name.upper()}\n" in script.read_text()
    settings = {"SLURM_JOB_PARTITION": "gpu", "SLURM_JOB_ACCOUNT": "stroke", f"SLURM_JOB_{name.upper()}": name.upper()}
    done = subprocess.run(["bash", script], env={**os.environ, **settings}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"slurm.sbatch: the {name} is still a placeholder.*sbatch --{name}=.*\n", done.stderr)


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_what_its_launcher_is_given(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read(name)
    validate_config(prepare_config(config))
    with pytest.raises(ValidationError, match="head_start_comands"):
        validate_config(prepare_config({**config, "head_start_comands": []}))


@pytest.mark.parametrize("name", LAUNCHED)
def test_nodes_are_behind_a_token_and_the_dashboard_on_loopback(name: str) -> None:
    config = read(name)
    assert config["file_mounts"] == {"~/.ray/auth_token": "ray.token"}, "nothing of the repository is copied"
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    for command in (head, worker):
        assert "RAY_AUTH_MODE=token" in command
    assert "--dashboard-host=127.0.0.1" in head
    assert "0.0.0.0" not in (FOLDER / name).read_text()


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_cloud_workers_are_spot_and_the_head_is_not(name: str) -> None:
    types = read(name)["available_node_types"]
    assert "spot" not in str(types["head"]).lower()
    assert "spot" in str(types["gpu_spot"]["node_config"]).lower()
    assert types["head"]["resources"]["CPU"] == 0, "no trial on the head"


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_clouds_start_all_workers_at_once_that_trials_can_use(name: str) -> None:
    config = read(name)
    assert config["upscaling_speed"] >= config["max_workers"], "so many nodes are started at once from none"
    worker = config["available_node_types"]["gpu_spot"]
    if worker["resources"]:  # on AWS, Ray looks them up
        assert worker["resources"]["memory"] > 4e9, "trials ask for memory, and Ray believes what is written here"


def test_the_ray_job_is_one_for_this_ray() -> None:
    job = read("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == pinned("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["resources"]["limits"] == container["resources"]["requests"]


def test_rays_autoscaler_reads_the_ray_job_as_meant() -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import validate_config

    cluster = read("kuberay.yaml")["spec"]["rayClusterSpec"]
    config = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "a", "namespace": "b"}, "spec": cluster})
    validate_config(config)
    head, workers = config["available_node_types"]["headgroup"], config["available_node_types"]["gpu"]
    assert head["resources"]["CPU"] == 0, "no trial on the head"
    assert workers["max_workers"] > workers["min_workers"] == 0
    study = yaml.safe_load((REPOSITORY / "tune_configs/paper_grid.yaml").read_text())
    assert workers["resources"]["CPU"] >= study["resources"]["cpus"]
    assert workers["resources"]["GPU"] >= study["resources"]["gpus"]
    assert workers["resources"]["memory"] == 24 * 2**30
    assert config["upscaling_speed"] >= config["max_workers"]


def test_jobs_bring_the_package_and_nothing_else() -> None:
    from ray.runtime_env import RuntimeEnv

    config = read("runtime_env.yaml")
    env = RuntimeEnv(**config)
    assert (env.py_modules(), env["working_dir"]) == (["rlvo"], "tune_configs")
    brought = [path for name in ("rlvo", "tune_configs") for path in (REPOSITORY / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in brought if "__pycache__" not in path.parts) < 5 * 2**20


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and their arguments, continued lines joined."""
    lines = [line for line in (FOLDER / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line]


@pytest.mark.slow
def test_the_image_holds_what_an_install_needs(tmp_path: Path) -> None:
    context, target = tmp_path / "context", tmp_path / "installed"
    context.mkdir()
    for argument in (argument for instruction, argument in dockerfile() if instruction == "COPY"):
        *sources, place = argument.split()
        for source in sources:
            if (REPOSITORY / source).is_dir():
                shutil.copytree(REPOSITORY / source, context / place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(REPOSITORY / source, context / place)
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == {path.name for path in context.iterdir()}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*command, "--target", target, context], check=True, capture_output=True)
    left = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "rlvo").rglob("*.html")}
    assert left
    assert all((target / path).exists() for path in left)


@pytest.mark.slow
def test_the_image_installs_the_pinned_packages() -> None:
    (first, _) = (argument for kind, argument in dockerfile() if kind == "RUN" and argument.startswith("pip install"))
    arguments = [word for word in shlex.split(first)[2:] if word != "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    unmet = [line for line in done.stderr.splitlines() if "No matching distribution" in line]
    assert done.returncode == 0 or all("wheel" in line for line in unmet), done.stderr
    assert "Would install" not in done.stdout, "this environment already has them, at the pinned versions"


def test_the_image_has_what_rays_launcher_and_kuberays_probes_call() -> None:
    (installs,) = (argument for kind, argument in dockerfile() if kind == "RUN" and argument.startswith("apt-get"))
    assert {"openssh-client", "rsync", "wget"} <= set(shlex.split(installs))


def test_the_image_is_no_root_and_names_no_registry() -> None:
    kinds = [kind for kind, _ in dockerfile()]
    assert set(kinds) <= {"ARG", "FROM", "RUN", "ENV", "WORKDIR", "COPY", "USER", "CMD"}
    assert ("USER", "${UID}") in dockerfile()
    for path in (*FOLDER.iterdir(), *(REPOSITORY / "mlflow").iterdir()):
        assert not re.search(
            r"\b(docker|ghcr|quay|gcr|pypi|nvcr|ecr)\.(io|org|com|aws)\b|pkg\.dev", path.read_text()
        ), path


def test_the_tests_that_the_readme_names_exist() -> None:
    section = (FOLDER / "README.md").read_text().partition("## What was run, and what was not")[2]
    named = set(re.findall(r"`(test_\w+)`", section))
    there = "".join(
        path.read_text() for name in ("clusters", "imaging") for path in FOLDER.parent.glob(f"tests/{name}/*.py")
    )
    assert len(named) > 10
    assert not [name for name in named if f"def {name}(" not in there]
    files = {path.name for path in FOLDER.iterdir()} - {"README.md", "Dockerfile.dockerignore"}
    assert not [name for name in files if f"`{name}`" not in section]
