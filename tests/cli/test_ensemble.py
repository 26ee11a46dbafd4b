"""`rlvo ensemble` on a tiny study that was really trained."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_study
import typer
from mlflow import MlflowClient
from typer.testing import CliRunner, Result

from rlvo.cli import ensemble
from rlvo.config.space import Space
from rlvo.config.study import CohortConfig
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.registry.inference import EnsemblePredictor
from rlvo.search.study import open_study
from rlvo.training.fit import fit

app = typer.Typer()
app.command()(ensemble.ensemble)
app.command("nothing")(lambda: None)


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


def test_nothing_in_mlflow_names_a_patient_or_the_cohort(study: Any, built: dict[str, Any]) -> None:
    stored = [path for path in study.workdir.artifacts.rglob("*") if path.is_file()]
    for path in [*stored, study.workdir.path / "mlflow.db"]:
        content = path.read_bytes()
        assert b"PLANTED" not in content, path
        assert b"planted-hospital" not in content, path


@pytest.mark.slow
def test_building_again_registers_only_what_has_changed(study: Any, built: dict[str, Any], tmp_path: Path) -> None:
    work = Workdir.at(shutil.copytree(study.workdir.path, tmp_path / "work"))
    client = MlflowClient(work.tracking_uri())
    shown = run("ensemble", "tiny", "--workdir", work.path)
    assert shown.exit_code == 0, shown.output
    assert "Optimistic" in shown.stderr
    assert "registered before: rlvo-ensemble version 1" in shown.stderr

    settings = json.loads((study.folder / "study.json").read_text())
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps(settings | {"ensemble": {"selection": "greedy", "calibration": "isotonic"}}))
    changed = run("ensemble", config, "--workdir", work.path, "--json")
    assert changed.exit_code == 0, changed.output
    champion = client.get_model_version_by_alias("rlvo-ensemble", "champion")
    assert json.loads(changed.stdout)["version"] == str(champion.version) == "2"
    assert champion.tags["rlvo.gate"].startswith("passed")
    assert champion.tags["rlvo.ensemble"] != client.get_model_version("rlvo-ensemble", "1").tags["rlvo.ensemble"]


def test_a_comparison_registers_nothing(study: Any, built: dict[str, Any]) -> None:
    before = len(MlflowClient(study.workdir.tracking_uri()).search_model_versions("name = 'rlvo-ensemble'"))
    shown = run("ensemble", "tiny", "--compare", "--workdir", study.workdir.path)
    assert shown.exit_code == 0, shown.output
    assert "nested" in shown.stderr
    rows = json.loads(run("ensemble", "tiny", "--compare", "--json", "--workdir", study.workdir.path).stdout)
    assert len(rows["out_of_fold"]) == 3 * 3 * 2
    after = len(MlflowClient(study.workdir.tracking_uri()).search_model_versions("name = 'rlvo-ensemble'"))
    assert after == before


@pytest.mark.slow
def test_a_lost_trial_is_named_and_left_out_if_asked(study: Any, built: dict[str, Any], tmp_path: Path) -> None:
    work = shutil.copytree(study.workdir.path, tmp_path / "work")
    lost = sorted(work.glob("studies/tiny/trials/*/fold-1/predictions.csv"))[0]
    lost.unlink()
    assert f"{lost.parent.parent.name}" in refused("ensemble", "tiny", "--workdir", work)
    partial = run("ensemble", "tiny", "--partial", "--workdir", work)
    assert partial.exit_code == 0, partial.output
    assert lost.parent.parent.name in partial.stderr


@pytest.mark.slow
def test_a_study_of_fewer_predictors_answers_where_perfusion_lacks(study: Any, tmp_path: Path) -> None:
    work = Workdir.at(shutil.copytree(study.workdir.path, tmp_path / "work", ignore=shutil.ignore_patterns("mlflow*")))
    for trial in work.study("tiny").glob("trials/*/fold-0/record.json"):
        if json.loads(trial.read_text())["configuration"]["model"]["fusion"] == "none":
            shutil.rmtree(trial.parents[1])  # so that every member looks at the table
    fewer = study.config.model_copy(
        update={
            "name": "tiny-b",
            "cohort": CohortConfig(predictors=("age", "sex", "nihss")),
            "model": study.config.model.model_copy(update={"fusion": "daft"}),
            "space": Space(),
        }
    )
    inputs = open_study(fewer, study.cohort, work, progress=tiny_study.silent, workers=1)
    configuration = fewer.configuration({})
    for fold in range(2):
        trial = work.study("tiny-b") / "trials" / configuration.key / f"fold-{fold}"
        identity = inputs.identity(configuration, fold)
        fit(configuration, inputs.fold_data(fold), trial, identity, seed=fold, device="cpu", threads=1)

    built = run("ensemble", "tiny", "--reduced", "tiny-b", "--check-bfloat16", "--workdir", work.path, "--json")
    assert built.exit_code == 0, built.output
    client = MlflowClient(work.tracking_uri())
    assert "decisions the same" in client.get_model_version_by_alias("rlvo-ensemble", "champion").tags["rlvo.bfloat16"]

    predictor = EnsemblePredictor.load(work.study("tiny") / "ensemble" / "model")
    table = study.raw.head(2).astype(object)
    table.loc[1, "tmax_gt6_ml"] = None
    whole, without = predictor.predict(table, study.cohort.parent)["warnings"]
    assert whole == ""
    assert "answered by the ensemble 'fewer predictors (tiny-b)'" in without
    assert "imputed" not in without

    other = fewer.model_copy(update={"name": "tiny-c", "folds": fewer.folds.model_copy(update={"seed": 9})})
    open_study(other, study.cohort, work, progress=tiny_study.silent, workers=1)
    assert "another split" in refused("ensemble", "tiny", "--reduced", "tiny-c", "--workdir", work.path)


def test_what_is_at_fault_is_said_in_one_line(tmp_path: Path) -> None:
    assert "no study" in refused("ensemble", "unknown", "--workdir", tmp_path)
