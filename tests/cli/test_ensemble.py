"""`rlvo ensemble` on a tiny study that was really trained."""

import json
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from support.commands import refused, run
from support.registered_study import Registered

pytestmark = pytest.mark.slow


def versions(registered: Registered) -> int:
    client = MlflowClient(registered.study.workdir.tracking_uri())
    return len(client.search_model_versions("name = 'rlvo-ensemble'"))


def logged(registered: Registered) -> Path:
    """The artifacts of the champion's run."""
    client = MlflowClient(registered.study.workdir.tracking_uri())
    run = client.get_model_version_by_alias("rlvo-ensemble", "champion").run_id
    return registered.study.workdir.artifacts / str(run) / "artifacts"


def test_ensemble_builds_declares_and_registers(registered: Registered) -> None:
    built, study = registered.shown, registered.study
    assert (built["model"], built["version"]) == ("rlvo-ensemble", "1")
    assert set(built["ensembles"]) == {"ensemble", "NCCT", "CTA", "BOTH", "resnet18 daft", "resnet18 none"}
    assert set(built["ensembles"]["ensemble"]["configurations"]) == {"NCCT", "CTA", "BOTH"}
    client = MlflowClient(study.workdir.tracking_uri())
    logged = client.get_run(client.get_model_version_by_alias("rlvo-ensemble", "champion").run_id)
    assert (logged.data.tags["rlvo.kind"], logged.info.status) == ("ensemble", "FINISHED")
    optimistic = built["ensembles"]["ensemble"]["validation_optimistic"]
    assert logged.data.metrics["val/auc_mean"] == pytest.approx(optimistic["val/auc_mean"])
    assert logged.data.params["weighting"] == "class_rates"


def test_the_run_shows_the_pictures_of_out_of_fold_answers(registered: Registered) -> None:
    folder = logged(registered) / "figures/nested"
    names = {"roc", "precision-recall", "confusion", "calibration", "decision-curve"}
    assert {path.stem for path in folder.glob("*.svg")} == names
    captions = (folder / "captions.md").read_text()
    assert all(f"**{name}.svg** (nested)" in captions for name in names)
    assert "Out of fold, nested" in captions


def test_nothing_in_mlflow_names_a_patient_or_the_cohort(registered: Registered) -> None:
    work = registered.study.workdir
    stored = [path for path in work.artifacts.rglob("*") if path.is_file()]
    assert stored
    for path in [*stored, work.path / "mlflow.db"]:
        content = path.read_bytes()
        assert b"PLANTED" not in content, path
        assert b"planted-hospital" not in content, path


def test_building_again_says_that_it_is_registered(registered: Registered, tmp_path: Path) -> None:
    shown = run("ensemble", "tiny", "--workdir", registered.study.copy(tmp_path / "work").workdir.path)
    assert "Optimistic" in shown.stderr
    assert "registered before: rlvo-ensemble version 1" in shown.stderr
    assert "next: rlvo evaluate tiny" in shown.stderr


def test_a_comparison_registers_nothing(registered: Registered, tmp_path: Path) -> None:
    before, arguments = versions(registered), ("ensemble", "tiny", "--compare", "--workdir")
    file = tmp_path / "ways.csv"
    shown_as_table = run(*arguments, registered.study.workdir.path, "--csv", file).stderr
    assert all(name in shown_as_table for name in ("the study's own", "weighting: youden", "highest of all", "nested"))
    assert len(pd.read_csv(file)) == (3 * 5 * 2 * 2 + 2) * 2
    alone = refused("ensemble", "tiny", "--csv", file, "--workdir", registered.study.workdir.path)
    assert "--csv needs --compare" in alone
    shown = json.loads(run(*arguments, registered.study.workdir.path, "--json").stdout)
    assert len(shown["out_of_fold"]) == (3 * 5 * 2 * 2 + 2) * 2
    assert versions(registered) == before
