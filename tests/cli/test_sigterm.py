"""SIGTERM, as SLURM, systemd, Kubernetes and `ray job stop` send it: a command ends as after Ctrl-C, with code 143."""

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.tiny_study import write_cohort
from support.victim import Victim, check_mlflow, wait_for

INTERRUPTED = "interrupted: run the same command again to continue"


@pytest.mark.slow
def test_a_search_closes_its_runs_and_goes_on_later(tmp_path: Path) -> None:
    victim = Victim(tmp_path, write_cohort(tmp_path / "cohort").parent)
    process = victim.start()
    wait_for(lambda: victim.epoch_count() >= 10, process)
    process.terminate()
    process.terminate()  # a second one does not disturb the end
    code, said = victim.wait(process)
    assert (code, said.splitlines()[-1]) == (143, INTERRUPTED)
    assert "***" not in said
    assert "Traceback" not in said
    client = MlflowClient(victim.database)
    experiment = client.get_experiment_by_name("victim")
    assert experiment is not None
    assert {run.info.status for run in client.search_runs([experiment.experiment_id])} == {"KILLED"}
    before = victim.epochs()
    victim.finish()
    assert all(victim.epochs()[trial][: len(lines)] == lines for trial, lines in before.items())
    check_mlflow(victim, victim.database)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["synth", "demo"])
def test_so_do_other_long_commands(command: str, tmp_path: Path) -> None:
    where = {"synth": [tmp_path / "cohort", "--patients", "400"], "demo": ["--workdir", tmp_path]}[command]
    arguments = [sys.executable, "-m", "rlvo.cli.main", command, *map(str, where)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: any((tmp_path / "cohort").glob("volumes/*/cta.nii.gz")), process)
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said.splitlines()[-1]) == (143, INTERRUPTED)
    assert "Traceback" not in said
