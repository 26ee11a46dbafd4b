"""MLflow locked or away while a search trains: the search continues, and all that the records say arrives, once."""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.mlflow_server import server
from support.processes import free_port
from support.victim import EPOCH_COUNT, TRIALS, Victim, check_mlflow, check_whole, fill, wait_for

pytestmark = pytest.mark.timeout(900)

LOCKED, AWAY = 30.0, 60.0
"""Seconds."""


def has_figures(uri: str) -> bool:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("victim")
    return experiment is not None and any(run.data.metrics for run in client.search_runs([experiment.experiment_id]))


def train_without_mlflow(victim: Victim, seconds: float) -> None:
    before = victim.epoch_count()
    time.sleep(seconds)
    assert victim.epoch_count() > before


def end_well(victim: Victim, process: subprocess.Popen[str]) -> None:
    code, said = victim.wait(process)
    assert code == 0, said
    if "MLflow is missing" in said:  # on a fast machine the search was over first; its next start brings the rest
        victim.finish()


def test_a_locked_database(undisturbed: Victim, tmp_path: Path) -> None:
    victim = undisturbed.beside(tmp_path, epochs=120)
    process = victim.start()
    wait_for(lambda: victim.epoch_count() > 0 and (victim.work / "mlflow-artifacts").exists(), process)
    with closing(sqlite3.connect(victim.work / "mlflow.db", isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN EXCLUSIVE")
        train_without_mlflow(victim, LOCKED)
    end_well(victim, process)
    check_mlflow(victim, victim.database)


def test_a_server_away_for_a_minute(undisturbed: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, victim = free_port(), undisturbed.beside(tmp_path, epochs=200)
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with server(tmp_path, port) as group:
        process = victim.start()
        wait_for(lambda: victim.epoch_count() > 0 and has_figures(uri), process)
        os.killpg(group, signal.SIGKILL)
    train_without_mlflow(victim, AWAY)
    with server(tmp_path, port):
        end_well(victim, process)
        check_mlflow(victim, uri)


def test_a_server_away_for_the_whole_run(undisturbed: Victim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, victim = free_port(), undisturbed.beside(tmp_path, epochs=5)
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    code, said = victim.wait(victim.start())
    assert code == 0, said
    assert f"MLflow is missing {TRIALS} trial(s)" in said
    with server(tmp_path, port):
        victim.finish()
        check_mlflow(victim, uri)


def test_an_artifact_store_that_is_full(
    undisturbed: Victim, small_disk: Callable[[Path, str], None], tmp_path: Path
) -> None:
    victim = undisturbed.beside(tmp_path)
    store = victim.work / "mlflow-artifacts"
    small_disk(store, "4m")
    process = victim.start()
    wait_for(lambda: victim.epoch_count() >= EPOCH_COUNT, process)
    filler = fill(store)
    code, said = victim.wait(process)
    assert code == 0, said
    assert "Traceback" not in said
    missing = [line for line in said.splitlines() if "MLflow is missing" in line]
    assert len(missing) == 1
    assert "No space left on device" in missing[0]
    client = MlflowClient(victim.database)
    experiment = client.get_experiment_by_name(victim.name)
    assert experiment is not None
    trials = client.search_runs([experiment.experiment_id], "tags.`rlvo.kind` = 'trial'")
    assert [run.info.status for run in trials] == ["FINISHED"] * TRIALS
    for run in trials:
        assert len(client.get_metric_history(run.info.run_id, "val/auc")) == EPOCH_COUNT
    filler.unlink()
    victim.finish()
    check_whole(victim, undisturbed)
