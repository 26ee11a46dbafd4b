"""`rlvo synth`, and `rlvo demo` on a tiny study: every part is real, only small."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import typer
from mlflow import MlflowClient
from support import networks
from support.commands import call, refused, run
from support.documents import parse

from rlvo.cli.main import app
from rlvo.config.loading import load_study
from rlvo.config.study import StudyConfig

DEMO = Path(__file__).parents[2] / "tune_configs" / "demo.yaml"
AXES = "space: {enumerate: {model.modality: [NCCT, CTA], model.fusion: [none, daft]}}"


def test_synth_writes_and_tells_the_ceilings(tmp_path: Path) -> None:
    out = tmp_path / "cohort"
    shown = json.loads(run("synth", out, "--patients", 30, "--profile", "paper", "--no-volumes", "--json").stdout)
    assert shown["ceilings"] == json.loads((out / "truth.json").read_text())["ceilings"]
    assert len(pd.read_csv(shown["cohort"])) == 30


def test_synth_on_another_grid(tmp_path: Path) -> None:
    result = run("synth", tmp_path, "--patients", 10, "--grid", "whole")
    assert json.loads((tmp_path / "truth.json").read_text())["grid"]["shape"] == [40, 48, 40]
    assert "next: rlvo validate" in result.stderr


def test_the_demos_model_is_registered_apart() -> None:
    assert load_study(DEMO).mlflow.registered_model == "rlvo-demo"
    assert StudyConfig.model_validate({"name": "own"}).mlflow.registered_model == "rlvo-ensemble"


def test_synth_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    assert "demmo" in refused("synth", tmp_path, "--profile", "demmo")
    assert call("synth", tmp_path, "--seed", "-1").exit_code == 2
    assert call("synth", tmp_path, "--grid", "paper").exit_code == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_session")
def test_demo_from_nothing_to_a_registered_model_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, work = tmp_path / "tiny.yaml", tmp_path / "my work"
    config.write_text(f"name: tiny\ntraining: {{epochs: 1, batch_size: 8}}{networks.STUDY}{AXES}")
    arguments = ["demo", "--workdir", work, "--patients", 60, "--config", config, "--json"]

    first = run(*arguments)
    result = json.loads(first.stdout)
    baselines = {"NIHSS", "ASPECTS", "NIHSS + ASPECTS", "all clinical", "all clinical, ridge", "all clinical, boosted"}
    baselines |= {"linear image", "linear image + table"}
    assert set(result["holdout"]) == baselines | {"NCCT", "CTA", "densenet121 none", "densenet121 daft", "ensemble"}
    assert list(result["holdout"])[-1] == "ensemble"
    assert all(model["patients"] == 12 for model in result["holdout"].values())
    assert Path(result["picture"]).read_bytes().startswith(b"\x89PNG")
    assert "optimistic" in first.stderr.lower()
    assert re.search(r"^registered rlvo-ensemble version 1, alias champion; gate passed: ", first.stderr, re.MULTILINE)
    assert "Traceback" not in first.stderr
    assert "Warning" not in first.stderr
    assert re.search(rf"MLflow +rlvo ui --workdir '{work}'\n", first.stderr)
    assert re.search(r"trials +http://127.0.0.1:5000/#/experiments/1/runs\?.*viewStateShareKey=trials\n", first.stderr)

    printed = [shlex.split(line)[1:] for line in re.findall(r"^\w[\w ]+ (rlvo .*)$", first.stderr, re.MULTILINE)]
    assert {words[0] for words in printed} == {"models", "synth", "predict", "baseline", "plan", "ui"}
    monkeypatch.chdir(tmp_path)
    for words in printed:
        parse(typer.main.get_command(app), words)
        if words[0] not in ("plan", "ui"):  # the one takes long, the other does not end
            run(*words)
    assert len(pd.read_csv(tmp_path / "answers.csv")) == 20

    client = MlflowClient(f"sqlite:///{work / 'mlflow.db'}")
    champion = client.get_model_version_by_alias("rlvo-ensemble", "champion")
    assert str(champion.version) == result["version"]
    assert "Not for patients: the model was trained on SYNTHETIC patients" in champion.description
    assert "tiny, SYNTHETIC" in run("models", "--workdir", work).stderr
    records = {path: path.stat().st_mtime_ns for path in work.glob("studies/tiny/trials/*/*/record.json")}
    assert len(records) == 8

    again = run(*arguments)
    repeated = json.loads(again.stdout)
    assert repeated["holdout"] == result["holdout"]
    assert (repeated["opening"], repeated["version"]) == (1, result["version"])
    assert "nothing was trained, registered or opened again" in again.stderr
    log = work / "openings.jsonl"
    assert len(log.read_text().splitlines()) == 1

    evaluate = ["evaluate", "tiny", "--workdir", work, "--json"]
    assert "opened before: opening 1" in refused(*evaluate)
    assert json.loads(run(*evaluate, "--again", "--reason", "a test").stdout)["opening"] == 2
    log.write_text(log.read_text().splitlines(keepends=True)[0])  # the last line is cut off
    assert "altered or lost" in refused(*evaluate, "--again", "--reason", "a test")
    assert {path: path.stat().st_mtime_ns for path in records} == records
    assert "another cohort" in refused(*arguments, "--profile", "null")


def test_demo_leaves_a_cohort_of_ones_own_alone(tmp_path: Path) -> None:
    table = tmp_path / "cohort" / "cohort.csv"
    table.parent.mkdir()
    table.write_text("patient_id\n7\n")
    assert "another --workdir" in refused("demo", "--workdir", tmp_path)
    assert table.read_text() == "patient_id\n7\n"
