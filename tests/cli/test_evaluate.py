"""The hold-out, another cohort, and two models on it, as the commands do it, with a study that was really trained."""

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from mlflow import MlflowClient
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner, Result

from rlvo import NOTICE
from rlvo.cli import ensemble, evaluate, models
from rlvo.ensemble.build import study_ensembles
from rlvo.ensemble.trials import read_trials, trial_weights
from rlvo.errors import RlvoError
from rlvo.imaging.target import Target
from rlvo.registry.folder import describe, write_model_folder
from rlvo.registry.packaging import package_model
from rlvo.registry.process import ModelProcess

pytestmark = pytest.mark.slow

app = typer.Typer()
app.command()(ensemble.ensemble)
app.command()(evaluate.evaluate)
app.add_typer(models.app, name="models")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """The one line of a command whose input is at fault."""
    result = run(*arguments)
    assert isinstance(result.exception, RlvoError), result.output
    assert (result.exception.exit_code, "\n" in str(result.exception)) == (2, False)
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
    return module.make_study(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def champion(study: Any) -> str:
    """The study's ensemble, registered; nothing was opened yet."""
    result = run("ensemble", "tiny", "--workdir", study.workdir.path)
    assert result.exit_code == 0, result.output
    return "rlvo-ensemble@champion"


@pytest.fixture(scope="module")
def other(study: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ensemble of its NCCT members alone, as an MLflow model."""
    trials = read_trials(study.folder)
    spec = study_ensembles(trials.records, trials.predictions, study.config.ensemble)["NCCT"]
    encoders = {fold: study.inputs.encoder(fold) for fold in range(2)}
    folder = tmp_path_factory.mktemp("NCCT")
    description = describe(spec, encoders, Target(grid=study.config.grid))
    write_model_folder(folder / "model", description, lambda _, member: trial_weights(study.folder, member))
    package_model(folder / "model", folder / "package", "# A card\n")
    return folder / "package"


@pytest.fixture(scope="module")
def elsewhere(study: Any) -> Path:
    """The same patients as another hospital would name them: one excluded, one with a damaged CTA, outcomes apart."""
    table = study.raw.head(12).astype({"cta": object})
    table["patient_id"] = [f"B-{i}" for i in range(12)]
    table["center"] = ["north", "south"] * 6
    table["dsa_occlusion"] = [0] + [1] * 11
    table["etici"] = ["0" if rlvo else "3" for rlvo in table["rlvo"]]
    table["final_stenosis_pct"], table["rescue_treatment"] = 0, 0
    damaged = study.cohort.parent / "damaged.nii.gz"
    damaged.write_bytes(b"no volume")
    table.loc[3, "cta"] = damaged.name
    path = study.cohort.parent / "elsewhere.csv"
    table.drop(columns=["rlvo", "smoking"]).to_csv(path, index=False)
    return path


def description(study: Any) -> str:
    """Of the registered version."""
    client = MlflowClient(study.workdir.tracking_uri())
    return str(client.get_model_version("rlvo-ensemble", "1").description)


def test_the_hold_out_is_opened_once_and_its_figures_are_on_the_card(study: Any, champion: str) -> None:
    arguments = ("evaluate", "tiny", "--workdir", study.workdir.path)
    assert "## Evaluated" not in description(study)
    opened = run(*arguments, "--json")
    assert opened.exit_code == 0, opened.output
    own = json.loads(opened.stdout)["ensembles"]["ensemble"]
    assert f"## Evaluated: hold-out of tiny, opening 1\n- {own['patients']} patients answered for" in description(study)
    assert f"AUC {own['auc']:.2f} (" in description(study)
    before = description(study)
    assert "opened before: opening 1" in refused(*arguments)
    assert description(study) == before
    again = run(*arguments, "--again", "--reason", "a reviewer asked")
    assert again.exit_code == 0, again.output
    assert "opening 2\n" in description(study)


def test_a_model_is_evaluated_elsewhere_without_seeing_an_outcome(
    study: Any, champion: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Mapping[str, Any]] = []
    answer = ModelProcess.answer

    def seen(self: ModelProcess, row: Mapping[str, Any], **params: Any) -> dict[str, Any]:
        asked.append(row)
        return answer(self, row, **params)

    monkeypatch.setattr(ModelProcess, "answer", seen)
    arguments = ("evaluate", champion, elsewhere, "--workdir", study.workdir.path)
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert {name for row in asked for name in row} <= {"patient_id", "ncct", "cta", "vessels", *study.inputs.predictors}
    assert [row["patient_id"] for row in asked] == [f"B-{i}" for i in range(1, 12)]
    assert (shown["considered"], shown["excluded"]["no occlusion on DSA"]) == (12, 1)
    assert (shown["patients"], shown["positives"], shown["unanswered"], shown["unanswered_positives"]) == (10, 2, 1, 1)
    assert shown["lacking_columns"] == ["smoking"]
    assert "no column smoking" in result.stderr

    kept = pd.read_csv(shown["answers"], index_col="patient_id")
    assert len(kept) == 11
    own = kept.dropna(subset="score")
    assert shown["estimates"]["auc"]["value"] == pytest.approx(roc_auc_score(own["label"], own["score"]))
    assert shown["estimates"]["sensitivity"]["value"] == pytest.approx(own["rlvo"][own["label"] == 1].mean())
    assert {"brier", "intercept", "slope", "ece"} <= set(shown["calibration"])
    assert {each["name"] for each in shown["subgroups"]} >= {"center", "sex", "age"}

    asked.clear()  # again: only who was not answered for is asked about
    result = run(*arguments, "--record", "Hospital B")
    assert result.exit_code == 0, result.output
    assert [row["patient_id"] for row in asked] == ["B-3"]
    assert "1 (1 with rLVO)" in result.stderr
    assert NOTICE in " ".join(result.stderr.split())
    assert Path(shown["answers"]).with_suffix(".svg").is_file()
    card = description(study)
    assert "## Evaluated: Hospital B\n- 12 patients, 1 excluded" in card
    assert "not answered for: 1, 1 with rLVO" in card
    assert not [name for name in ("B-", "elsewhere", "planted-hospital") if name in card]


def test_two_models_are_compared_on_the_same_patients(study: Any, champion: str, other: Path, elsewhere: Path) -> None:
    result = run("models", "compare", 1, other, elsewhere, "--workdir", study.workdir.path, "--json")
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)
    assert (shown["patients"], shown["positives"], shown["neither"]) == (10, 2, 1)
    assert shown["delong"]["auc_a"] == pytest.approx(shown["estimates_a"]["auc"]["value"])
    changed = {each["patient_id"] for each in shown["changed"]}
    wrong_or_right = shown["mcnemar"]["only_a"] + shown["mcnemar"]["only_b"]
    assert len(changed) == wrong_or_right  # a changed decision is right for one of them
    result = run("models", "compare", champion, other, elsewhere, "--workdir", study.workdir.path)
    assert result.exit_code == 0, result.output


def test_a_studys_own_patients_are_refused(study: Any, other: Path) -> None:
    for name, told in (("test", "hold-out of study tiny"), ("development", "made on 3 of these patients")):
        ids = getattr(study.inputs.split, name)[:3]
        path = study.cohort.parent / f"{name}.csv"
        study.raw[study.raw["patient_id"].isin(ids)].to_csv(path, index=False)
        assert told in refused("evaluate", other, path, "--workdir", study.workdir.path)


def test_what_is_at_fault_is_said_before_anything_runs(study: Any, other: Path, elsewhere: Path) -> None:
    work = ("--workdir", study.workdir.path)
    given = ("evaluate", other, elsewhere, *work)
    assert "--again" in refused(*given, "--again", "--reason", "x")
    assert "no description" in refused(*given, "--record", "Hospital B")
    assert "--record" in refused("evaluate", "tiny", *work, "--record", "Hospital B")
    assert "no registry" in refused("evaluate", "rlvo-ensemble", elsewhere, "--workdir", study.workdir.path / "nothing")
