"""The table of a study's trials: what their files and MLflow hold of each."""

import io
import json

import pandas as pd
import pytest
from support import commands
from support.commands import refused
from support.study_on_disk import CTA, NCCT, StudyOnDisk

from rlvo.training.usage import SECONDS, USAGE


def printed(on_disk: StudyOnDisk) -> tuple[pd.DataFrame, str]:
    """What `rlvo status --csv` prints as a table, and what it says beside that."""
    result = commands.run("status", "fake", "--csv", "--workdir", on_disk.workdir)
    return pd.read_csv(io.StringIO(result.stdout)), result.stderr


def test_the_table_holds_parameters_state_metrics_times_folder_and_run(on_disk: StudyOnDisk) -> None:
    epochs = on_disk.epochs(0)
    on_disk.end(NCCT, 0, epochs)
    on_disk.end(NCCT, 1, [], reason="the loss is nan in epoch 1, =1+1")
    on_disk.start(CTA, 0, epochs[:2])
    lines = [
        {"epoch": number, "when": 1_000 * at, SECONDS: 20.0} for number, at in ((1, 1_000_000_020), (2, 1_000_000_050))
    ]
    (on_disk.trial(NCCT, 0) / USAGE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    on_disk.mirror().sync()

    table, _ = printed(on_disk)
    assert table["fold"].tolist() == [0, 1, 0, 1]
    rows = table.set_index(["configuration", "fold"])
    first = rows.loc[(NCCT.key, 0)]
    assert (first["state"], first["epoch"], first["best_epoch"], first["seconds"]) == ("finished", 3, 3, 1.5)
    assert (first["model.modality"], first["training.learning_rate"]) == ("NCCT", 1e-4)
    assert first["val/auc"] == pytest.approx(epochs[-1]["val/auc"], abs=1e-12)
    assert (first["started"], first["last_epoch"]) == ("2001-09-09T01:46:40+00:00", "2001-09-09T01:47:30+00:00")
    assert first["folder"] == str(on_disk.trial(NCCT, 0))
    assert rows.loc[(NCCT.key, 1), "reason"] == "the loss is nan in epoch 1, =1+1"
    assert rows["state"].to_dict() == {
        (NCCT.key, 0): "finished", (NCCT.key, 1): "failed", (CTA.key, 0): "running", (CTA.key, 1): "waiting"
    }  # fmt: skip
    runs = {
        (run.data.params["modality"], int(run.data.params["fold"])): run.info.run_id for run in on_disk.runs("trial")
    }
    assert rows.loc[[(NCCT.key, 0), (NCCT.key, 1), (CTA.key, 0)], "mlflow_run"].tolist() == [
        runs["NCCT", 0], runs["NCCT", 1], runs["CTA", 0]
    ]  # fmt: skip
    assert pd.isna(rows.loc[(CTA.key, 1), "mlflow_run"])


def test_the_table_needs_no_mlflow(on_disk: StudyOnDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk.end(NCCT, 0, on_disk.epochs(0))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    table, said = printed(on_disk)
    assert table["mlflow_run"].isna().all()
    assert said.startswith("warning: without the runs in MLflow: ")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (on_disk.workdir / "mlflow.db").unlink()
    assert printed(on_disk)[1] == ""
    assert not (on_disk.workdir / "mlflow.db").exists(), "it only reads"


def test_one_way_to_show_one_study(on_disk: StudyOnDisk) -> None:
    said = refused("status", "fake", "--csv", "--json", "--workdir", on_disk.workdir)
    assert "--watch, --csv and --json exclude each other" in said
