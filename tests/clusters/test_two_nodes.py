"""A study on a real Ray of two nodes, submitted with a token and mirrored into the team's MLflow server."""

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support import networks
from support.processes import kill_node, wait_until

from rlvo.config.grid import PRESETS
from rlvo.synthetic.cohort import write_synthetic_cohort

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
REPOSITORY = Path(__file__).parents[2]
STUDY = "name: {name}\ntraining: {{epochs: {epochs}, batch_size: 8}}"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both nodes see: a cohort, and room for studies."""
    folder = tmp_path_factory.mktemp("shared")
    write_synthetic_cohort(folder / "cohort", patients=24, profile="demo", seed=0, grid=PRESETS["focus"], workers=1)
    return folder


def test_a_study_is_submitted_as_a_job(
    two_nodes: Any, team_server: Any, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(two_nodes.environment["HOME"])
    (home / ".mlflow").mkdir()
    (home / ".mlflow/credentials").write_text(
        "[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = correct horse battery\n"
    )
    (shared / "job.yaml").write_text(STUDY.format(name="job", epochs=2) + networks.STUDY)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{two_nodes.dashboard}/api/jobs/", timeout=20)

    search = (
        f"python -m rlvo.cli.main search {shared}/job.yaml --cohort {shared}/cohort/cohort.csv "
        f"--workdir {shared}/work --json > {shared}/job.json"
    )
    program = "python -c 'import rlvo; print(\"code at\", rlvo.__file__)'"
    done = submit(two_nodes, f"{program} && ls && MLFLOW_TRACKING_URI={team_server.uri} {search}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2/2 trials" in done.stdout, "the job's progress reaches the terminal"
    (code,) = (line.split()[-1] for line in done.stdout.splitlines() if line.startswith("code at"))
    assert "py_modules_files" in code, "the shipped package comes before an installed one"
    assert "paper_grid.yaml" in done.stdout, "the working folder is tune_configs"

    result = json.loads((shared / "job.json").read_text())
    assert [each["state"] for each in result["configurations"]] == ["finished"]
    assert len(nodes_of_trials(two_nodes)) == 2, "each node trained a fold"

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse battery")
    client = MlflowClient(team_server.uri)
    experiment = client.get_experiment_by_name("job")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["rlvo.kind"] for run in runs) == ["configuration", "study", "trial", "trial"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    (configuration,) = (run for run in runs if run.data.tags["rlvo.kind"] == "configuration")
    assert configuration.data.metrics["val/auc_mean"] == pytest.approx(result["configurations"][0]["val/auc"])
    assert len(list(team_server.artifacts.rglob("model.safetensors"))) == 2


def test_the_other_node_goes_on_where_a_dead_one_stopped(two_nodes: Any, shared: Path) -> None:
    epochs = 600
    (shared / "dead.yaml").write_text(STUDY.format(name="dead", epochs=epochs) + networks.STUDY)
    search = f"search {shared}/dead.yaml --cohort {shared}/cohort/cohort.csv --workdir {shared}/work"
    begun = submit(two_nodes, f"python -m rlvo.cli.main {search}", "--submission-id", "dead", "--no-wait")
    assert begun.returncode == 0
    trials = shared / "work/studies/dead/trials"

    def written() -> list[int]:
        """Epochs of the folds that have begun."""
        return [len(path.read_text().splitlines()) for path in trials.glob("*/fold-*/epochs.jsonl")]

    wait_until(lambda: len(written()) == 2 and min(written()) >= 3)
    kill_node(two_nodes.nodes[1])
    assert max(written()) < epochs, "a CPU a node and a CPU a trial: each node was training a fold"
    state = ["ray", "job", "logs", "--follow", "--address", two_nodes.dashboard, "dead"]
    logs = subprocess.run(state, env=two_nodes.environment, capture_output=True, text=True, timeout=400)
    assert "2/2 trials" in logs.stdout, logs.stdout + logs.stderr
    for fold in range(2):
        (record,) = trials.glob(f"*/fold-{fold}/record.json")
        assert json.loads(record.read_text())["status"] == "finished"
        lines = (record.parent / "epochs.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in lines] == list(range(1, epochs + 1)), "no epoch ran twice"


def submit(cluster: Any, entrypoint: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit`, as ray_cluster/README.md has it; waits for the job's end."""
    command = ["ray", "job", "submit", "--address", cluster.dashboard,
               "--runtime-env", "ray_cluster/runtime_env.yaml", *options, "--", "bash", "-c", entrypoint]  # fmt: skip
    for _ in range(6):  # the nodes have only just started; each attempt waits some seconds by itself
        done = subprocess.run(
            command, cwd=REPOSITORY, env=cluster.environment, capture_output=True, text=True, timeout=400
        )
        if "No available agent" not in done.stderr:
            break
    return done


def nodes_of_trials(cluster: Any) -> set[str]:
    """The nodes on which trials have run: actors other than the job's own."""
    command = ["ray", "list", "actors", "--address", cluster.dashboard, "--format", "json", "--detail"]
    listed = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=True)
    return {actor["node_id"] for actor in json.loads(listed.stdout) if actor["class_name"] != "JobSupervisor"}
