"""A search on a cluster that starts without a worker: Ray's own autoscaler, with nodes on this machine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.tiny_study import write_cohort
from support.victim import CONFIG

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
STUDY = {
    **CONFIG,
    "name": "grown",
    "training": {"epochs": 2, "batch_size": 8},
    "space": {"enumerate": {"training.learning_rate": [1e-3, 1e-2]}},
}


def test_all_nodes_are_asked_for_at_once(growing_cluster: Any, tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort")
    with start(growing_cluster, tmp_path, cohort, STUDY) as process:
        result, said = process.communicate()
    assert process.returncode == 0, said
    states = [each["state"] for each in json.loads(result)["configurations"]]
    assert states == ["finished", "finished"]
    assert growing_cluster.launches() == [3], "as many as it may have, for four trials, in one request"

    too_large = {**STUDY, "name": "large", "resources": {"cpus": 64}}
    with start(growing_cluster, tmp_path, cohort, too_large) as process:
        try:
            told = next(line for line in process.stderr or () if "no node of the cluster can hold a trial" in line)
            assert "it asks for 64 CPU, 0 GPU, 0.9 GB memory, and the largest node has 1 CPU, 0 GPU, " in told
        finally:
            process.terminate()
            process.communicate()
    assert growing_cluster.launches() == [3]


def start(cluster: Any, folder: Path, cohort: Path, study: dict[str, Any]) -> subprocess.Popen[str]:
    """`rlvo search`, in the background."""
    (folder / "study.yaml").write_text(json.dumps(study))
    command = [sys.executable, "-m", "rlvo.cli.main", "search", str(folder / "study.yaml"), "--cohort", str(cohort)]
    command += ["--workdir", str(folder / "work"), "--address", cluster.address, "--json"]
    return subprocess.Popen(command, env=cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
