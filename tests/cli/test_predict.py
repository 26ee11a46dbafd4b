"""The three commands, one after the other, on a tiny study that was really trained."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import typer
from click.testing import Result
from mlflow import MlflowClient
from typer.testing import CliRunner

from rlvo import NOTICE
from rlvo.cli import ensemble, predict
from rlvo.errors import CohortError, RlvoError

app = typer.Typer()
for command in (ensemble.ensemble, ensemble.evaluate, predict.predict):
    app.command()(command)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """The one line of a command whose input is at fault."""
    result = run(*arguments)
    assert isinstance(result.exception, RlvoError), result.output
    assert result.exception.exit_code == 2
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = Path(__file__).parents[1] / "registry" / "conftest.py"
    spec = importlib.util.spec_from_file_location("tiny_study", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_study"] = module
    spec.loader.exec_module(module)
    return module.make_study(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def built(study: Any) -> dict[str, Any]:
    result = run("ensemble", "tiny", "--workdir", study.workdir.path, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_ensemble_builds_declares_and_registers(study: Any, built: dict[str, Any]) -> None:
    assert (built["model"], built["version"]) == ("rlvo-ensemble", "1")
    assert set(built["ensembles"]) == {"ensemble", "NCCT", "CTA", "BOTH", "resnet18 daft", "resnet18 none"}
    assert set(built["ensembles"]["ensemble"]["configurations"]) == {"NCCT", "CTA", "BOTH"}
    client = MlflowClient(study.workdir.tracking_uri())
    run_id = client.get_model_version_by_alias("rlvo-ensemble", "champion").run_id
    logged = client.get_run(run_id)
    assert logged.data.tags["rlvo.kind"] == "ensemble"
    assert logged.info.status == "FINISHED"
    optimistic = built["ensembles"]["ensemble"]["validation_optimistic"]
    assert logged.data.metrics["val/auc_mean"] == pytest.approx(optimistic["val/auc_mean"])
    assert logged.data.params["weighting"] == "class_rates"


def test_predict_answers_as_the_registered_model_does(
    study: Any, built: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = ("--workdir", study.workdir.path)
    result = run("predict", "rlvo-ensemble@champion", study.cohort, "-o", tmp_path / "out.csv", *work)
    assert result.exit_code == 0, result.output
    assert NOTICE in " ".join(result.stderr.split())
    written = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", study.workdir.tracking_uri())
    model = mlflow.pyfunc.load_model("models:/rlvo-ensemble@champion")
    expected = model.predict(study.raw, params={"folder": str(study.cohort.parent)})
    assert written.columns.tolist() == expected.columns.tolist()
    for column in ("score", "p_ncct", "p_cta", "p_both"):
        np.testing.assert_allclose(written[column], expected[column], rtol=0, atol=1e-6)
    for column in ("patient_id", "rlvo", "votes", "folds", "warnings", "notice"):
        assert written[column].tolist() == expected[column].tolist()
    for name in ("models:/rlvo-ensemble/1", built["folder"]):
        again = run("predict", name, study.cohort, "--json", *work)
        assert [row["score"] for row in json.loads(again.stdout)] == pytest.approx(written["score"].tolist(), abs=1e-12)


def test_a_patient_without_cta_is_null_in_json_and_empty_in_csv(
    study: Any, built: dict[str, Any], tmp_path: Path
) -> None:
    table = study.raw.head(2).astype({"cta": object})
    table.loc[0, "cta"] = None
    table.to_csv(study.cohort.parent / "two.csv", index=False)
    result = run("predict", built["folder"], study.cohort.parent / "two.csv", "-o", tmp_path / "out.csv", "--json")
    assert isinstance(result.exception, CohortError)
    [finding] = result.exception.findings
    assert finding.patient == str(table.loc[0, "patient_id"])
    assert finding.what == "not answered: no CTA"
    first, second = json.loads(result.stdout)
    assert (first["rlvo"], first["score"], first["votes"]) == (None, None, None)
    assert "no CTA" in first["warnings"]
    assert second["rlvo"] in (0, 1)
    assert pd.read_csv(tmp_path / "out.csv")["rlvo"].isna().tolist() == [True, False]


def test_a_column_that_is_not_there_is_named(study: Any, built: dict[str, Any], tmp_path: Path) -> None:
    path = study.cohort.parent / "without.csv"
    study.raw.head(1).drop(columns="nihss").to_csv(path, index=False)
    result = run("predict", built["folder"], path, "--json")
    assert "no column nihss: imputed as in training, for every patient" in result.stderr
    [answer] = json.loads(result.stdout)
    assert "imputed: nihss" in answer["warnings"]
    assert answer["rlvo"] in (0, 1)


def test_evaluate_counts_openings_and_keeps_the_answers(study: Any, built: dict[str, Any]) -> None:
    work = ("--workdir", study.workdir.path)
    first = json.loads(run("evaluate", "tiny", *work, "--json").stdout)
    assert first["opening"] == 1
    assert set(first["ensembles"]) == set(built["ensembles"])
    assert first["ensembles"]["ensemble"]["patients"] == len(study.inputs.split.test)
    shown = run("evaluate", "tiny", *work)
    assert shown.exit_code == 0, shown.output
    assert "opening 2 of its hold-out" in shown.stderr
    assert "Optimistic" in shown.stderr
    assert len((study.folder / "openings.jsonl").read_text().splitlines()) == 2
    client = MlflowClient(study.workdir.tracking_uri())
    logged = client.get_run(client.get_model_version_by_alias("rlvo-ensemble", "champion").run_id)
    assert {"NIHSS", "all clinical", "all clinical, boosted"} <= set(first["baselines"])
    runs = client.search_runs([logged.info.experiment_id], "tags.`rlvo.kind` = 'baseline'")
    assert {run.info.run_name: run.data.metrics["test/auc"] for run in runs} == {
        name: pytest.approx(figures["auc"]) for name, figures in first["baselines"].items()
    }
    assert all("val/auc_mean" in run.data.metrics for run in runs)
    subgroups = {each["name"]: each for each in first["subgroups"]}
    assert {"sex", "age"} <= set(subgroups)
    assert sum(level["patients"] for level in subgroups["sex"]["levels"]) == len(study.inputs.split.test)
    assert logged.data.metrics["test/auc"] == pytest.approx(first["ensembles"]["ensemble"]["auc"])


def test_nothing_in_mlflow_names_a_patient_or_the_cohort(study: Any, built: dict[str, Any]) -> None:
    stored = [path for path in study.workdir.artifacts.rglob("*") if path.is_file()]
    for path in [*stored, study.workdir.path / "mlflow.db"]:
        content = path.read_bytes()
        assert b"PLANTED" not in content, path
        assert b"planted-hospital" not in content, path


def test_the_tracking_uri_of_the_environment_wins(
    study: Any, built: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    message = refused(
        "predict", "rlvo-ensemble", study.cohort, "-o", tmp_path / "x.csv", "--workdir", study.workdir.path
    )
    assert "no registry" in message
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study.workdir.path / 'mlflow.db'}")
    result = run("predict", "rlvo-ensemble", study.cohort, "-o", tmp_path / "x.csv", "--workdir", tmp_path / "empty")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "empty").exists()


def test_what_is_at_fault_is_said_in_one_line(study: Any, tmp_path: Path) -> None:
    work = ("--workdir", tmp_path)
    assert "no study" in refused("ensemble", "unknown", *work)
    assert "no study" in refused("evaluate", "unknown", *work)
    assert "nowhere to write" in refused("predict", "rlvo-ensemble", study.cohort, *work)
    assert "no such cohort table" in refused(
        "predict", "rlvo-ensemble", tmp_path / "none.csv", "-o", tmp_path / "x.csv", *work
    )
    assert "no registry" in refused("predict", "rlvo-ensemble", study.cohort, "-o", tmp_path / "x.csv", *work)


def test_building_again_gives_a_new_version_of_the_same_ensemble(study: Any, built: dict[str, Any]) -> None:
    client = MlflowClient(study.workdir.tracking_uri())
    first = client.get_model_version_by_alias("rlvo-ensemble", "champion")
    shown = run("ensemble", "tiny", "--workdir", study.workdir.path)
    assert shown.exit_code == 0, shown.output
    assert "Optimistic" in shown.stderr
    assert "registered rlvo-ensemble version 2" in shown.stderr
    second = client.get_model_version_by_alias("rlvo-ensemble", "champion")
    assert second.tags == first.tags
    assert second.run_id == first.run_id


def test_the_commands_import_nothing_heavy() -> None:
    code = "import sys, rlvo.cli.predict; print({'torch', 'mlflow', 'ray', 'sklearn', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
