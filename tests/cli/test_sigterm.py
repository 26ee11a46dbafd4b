"""SIGTERM, as SLURM, systemd, Kubernetes and `ray job stop` send it: a command ends as after Ctrl-C, with code 143.

Also if all processes that the command has started get it too, as from systemd, SLURM and `timeout`.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from support.commands import run
from support.registered_study import Registered
from support.tiny_study import TinyStudy, write_cohort
from support.victim import Victim, check_mlflow, wait_for

INTERRUPTED = "interrupted: run the same command again to continue"


@pytest.mark.slow
def test_a_search_closes_its_runs_and_goes_on_later(tmp_path: Path) -> None:
    victim = Victim(tmp_path, write_cohort(tmp_path / "cohort").parent, epochs=15)
    process = victim.start()
    wait_for(lambda: victim.epoch_count() >= 10, process)
    os.killpg(process.pid, signal.SIGTERM)
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


MADE_ANOTHER_ERROR = """
import os, signal, sys
from rlvo.cli import main

def start():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    except KeyboardInterrupt:
        raise ImportError("initialization failed") from None  # as compiled modules do while they are loaded

main.app.command()(start)
sys.argv = ["rlvo", "start"]
main.main()
"""
COMES_LATE = """
import atexit, os, signal, sys
from rlvo.cli import main

atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))
sys.argv = ["rlvo", "--version"]
main.main()
"""


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [(MADE_ANOTHER_ERROR, 143, f"{INTERRUPTED}\n"), (COMES_LATE, -signal.SIGTERM, "")],
    ids=["an error", "too late"],
)
def test_it_is_no_error_whatever_it_meets(program: str, code: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, said)


def check_terminated(*arguments: str | Path, when: Callable[[], bool]) -> None:
    """Run a command, terminate it when it has come so far, and check how it ends."""
    command = [sys.executable, "-m", "rlvo.cli.main", *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(when, process)
    os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said.splitlines()[-1]) == (143, INTERRUPTED)
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("command", ["synth", "demo"])
def test_so_do_other_long_commands(command: str, tmp_path: Path) -> None:
    where = {"synth": [tmp_path / "cohort", "--patients", "400"], "demo": ["--workdir", tmp_path]}[command]
    check_terminated(command, *where, when=lambda: any((tmp_path / "cohort").glob("volumes/*/cta.nii.gz")))


@pytest.mark.slow
def test_preparing_goes_on_later(tmp_path: Path) -> None:
    run("synth", tmp_path / "cohort", "--patients", "60")
    arguments = ("prepare", tmp_path / "cohort" / "cohort.csv", "--grid", "focus", "--workdir", tmp_path / "work")
    store = tmp_path / "work" / "store"

    def entries() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in store.glob("??/*")}

    check_terminated(*arguments, when=lambda: len(entries()) > 0)
    kept = entries()
    assert len(kept) < 60
    run(*arguments)
    assert len(entries()) == 60
    assert entries().items() > kept.items()


@pytest.mark.slow
def test_predicting_goes_on_later(study: TinyStudy, package: Path, tmp_path: Path) -> None:
    many = pd.concat([study.raw.assign(patient_id=study.raw["patient_id"] + f"-{copy}") for copy in range(2)])
    table, out = study.cohort.parent / "many.csv", tmp_path / "out.csv"
    many.to_csv(table, index=False)
    kept = tmp_path / "out.csv.answered.jsonl"
    check_terminated("predict", package, table, "-o", out, when=lambda: kept.is_file() and kept.stat().st_size > 0)
    assert not out.exists()
    answered = len(kept.read_text().splitlines())
    assert 0 < answered < len(many)
    run("predict", package, table, "-o", out)
    assert pd.read_csv(out)["patient_id"].tolist() == many["patient_id"].tolist()


@pytest.mark.slow
def test_an_interrupted_evaluation_stays_on_record(registered: Registered, tmp_path: Path) -> None:
    study = registered.study.copy(tmp_path / "work")
    where, log = ("--workdir", study.workdir.path), study.workdir.path / "openings.jsonl"
    check_terminated("evaluate", study.config.name, *where, when=lambda: log.is_file() and log.stat().st_size > 0)
    again = json.loads(run("evaluate", study.config.name, *where, "--again", "--reason", "stopped", "--json").stdout)
    assert again["opening"] == 2
