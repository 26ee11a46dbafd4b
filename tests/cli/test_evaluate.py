"""The hold-out, another cohort, and two models on it, as the commands do it, with a study that was really trained."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.metrics import roc_auc_score
from support.commands import refused, run
from support.privacy import open_to_others
from support.registered_study import Registered
from support.tiny_study import TinyStudy

from rlvo.about import NOTICE
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.imaging.target import Target
from rlvo.inference.description import describe, write_model_folder
from rlvo.registry.process import ModelProcess
from rlvo.registry.register import package_model

pytestmark = pytest.mark.slow
CHAMPION = "rlvo-ensemble@champion"


@pytest.fixture(scope="module")
def evaluated(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """A registered study whose hold-out may be opened."""
    return registered.study.copy(tmp_path_factory.mktemp("elsewhere") / "work")


@pytest.fixture(scope="module")
def other(evaluated: TinyStudy, specs: dict[str, EnsembleSpec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ensemble of its NCCT members alone, as an MLflow model."""
    folder = tmp_path_factory.mktemp("NCCT")
    write_model_folder(
        folder / "model",
        describe(specs["NCCT"], evaluated.encoders, Target(grid=evaluated.config.grid)),
        evaluated.weights,
    )
    package_model(folder / "model", folder / "package", "# A card\n")
    return folder / "package"


@pytest.fixture(scope="module")
def elsewhere(evaluated: TinyStudy) -> Path:
    """Another hospital's patients, with the same scans: one excluded, one with a damaged CTA, outcomes apart."""
    table = evaluated.raw.head(12).astype({"cta": object})
    table["patient_id"] = [f"B-{i}" for i in range(12)]
    table[["cbf_lt30_ml", "tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml"]] *= 0.9
    table["center"] = ["north", "south"] * 6
    table["dsa_occlusion"] = [0] + [1] * 11
    table["etici"] = ["0" if rlvo else "3" for rlvo in table["rlvo"]]
    table["final_stenosis_pct"], table["rescue_treatment"] = 0, 0
    damaged = evaluated.cohort.parent / "damaged.nii.gz"
    damaged.write_bytes(b"no volume")
    table.loc[3, "cta"] = damaged.name
    path = evaluated.cohort.parent / "elsewhere.csv"
    table.drop(columns=["rlvo", "smoking"]).to_csv(path, index=False)
    return path


def description(evaluated: TinyStudy) -> str:
    """Of the registered version."""
    client = MlflowClient(evaluated.workdir.tracking_uri())
    return str(client.get_model_version("rlvo-ensemble", "1").description)


def test_the_hold_out_is_opened_once_and_its_figures_are_on_the_card(evaluated: TinyStudy) -> None:
    arguments = ("evaluate", "tiny", "--workdir", evaluated.workdir.path)
    assert "## Evaluated" not in description(evaluated)
    shown = json.loads(run(*arguments, "--json").stdout)
    assert {each["name"] for each in shown["subgroups"]} == {"sex", "age", "occlusion_site"}
    own = shown["ensembles"]["ensemble"]
    first = shown["paired_tests"][0]
    assert (first["a"], first["b"]) == ("ensemble", "all clinical")
    assert first["delong"]["auc_a"] == pytest.approx(own["auc"])
    assert {"brier", "slope"} <= set(shown["calibration"]["ensemble"])
    assert len(shown["decision_curve"]["ensemble"]) == 50
    assert (shown["seen_before"], shown["power"]["positives"]) == (0, own["positives"])
    assert f"## Evaluated: hold-out of tiny, opening 1\n- {own['patients']} patients" in description(evaluated)
    assert f"AUC {own['auc']:.2f} (" in description(evaluated)
    before = description(evaluated)
    client = MlflowClient(evaluated.workdir.tracking_uri())
    run_id = str(client.get_model_version("rlvo-ensemble", "1").run_id)
    pictures = {Path(each.path).name for each in client.list_artifacts(run_id, "figures/hold-out")}
    names = ("roc", "precision-recall", "confusion", "votes", "calibration", "decision-curve")
    assert pictures == {"captions.md", *(f"{name}.svg" for name in names)}
    assert json.loads(run(*arguments, "--show", "--json").stdout) == shown
    assert "tiny: opening 1 of its hold-out" in run(*arguments, "--show").stderr
    store, log = evaluated.workdir.store, (evaluated.workdir.path / "openings.jsonl").read_bytes()
    store.rename(store.with_name("away"))
    refusal = refused(*arguments)
    assert "opened before: opening 1" in refusal
    assert f"rlvo evaluate tiny --show --workdir {evaluated.workdir.path}" in refusal
    assert not store.exists(), "volumes were prepared before it was refused"
    store.with_name("away").rename(store)
    assert (evaluated.workdir.path / "openings.jsonl").read_bytes() == log
    assert description(evaluated) == before
    again = run(*arguments, "--again", "--reason", "a reviewer asked")
    assert "tiny: opening 2 of its hold-out" in again.stderr
    assert "6 of its 6 patients had been opened before" in again.stderr
    assert "paired tests on the hold-out" in again.stderr
    page = evaluated.workdir.path / "a page.html"
    told = run("report", "tiny", "-o", page, "--workdir", evaluated.workdir.path).stderr
    assert f"MLflow: rlvo ui --workdir {evaluated.workdir.path}\n" in told
    assert "ensembles, report.html at the latest: http://127.0.0.1:5000/#/experiments/1/runs?" in told
    assert Path(client.download_artifacts(run_id, "report.html")).read_text() == page.read_text()
    assert "patients with rLVO: an AUC of 0.70 has a standard error of" in again.stderr
    assert "calibration of ensemble: Brier" in again.stderr
    assert "opening 2\n" in description(evaluated)


def test_mlflow_shows_the_models_figures_apart_by_whom_they_are_of(evaluated: TinyStudy) -> None:
    client = MlflowClient(evaluated.workdir.tracking_uri())
    version = client.get_model_version("rlvo-ensemble", "1")
    model = client.get_run(version.run_id).outputs.model_outputs[0].model_id
    logged = client.get_logged_model(model).metrics
    groups = {metric.key: metric.dataset_name for metric in logged}
    assert groups["val/auc_mean"] == "development, optimistic"
    assert groups["nested/auc"] == "development, nested"
    assert groups["test/auc"] == "hold-out"
    run_metrics = client.get_run(version.run_id).data.metrics
    assert {metric.key: metric.value for metric in logged}.items() <= run_metrics.items()


def test_a_model_is_evaluated_elsewhere_without_seeing_an_outcome(
    evaluated: TinyStudy, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Mapping[str, Any]] = []
    answer = ModelProcess.answer

    def seen(self: ModelProcess, row: Mapping[str, Any], **params: Any) -> dict[str, Any]:
        asked.append(row)
        return answer(self, row, **params)

    monkeypatch.setattr(ModelProcess, "answer", seen)
    arguments = ("evaluate", CHAMPION, elsewhere, "--workdir", evaluated.workdir.path)
    result = run(*arguments, "--json")
    shown = json.loads(result.stdout)
    allowed = {"patient_id", "ncct", "cta", "vessels", *evaluated.inputs.predictors}
    assert {name for row in asked for name in row} <= allowed
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

    asked.clear()  # again: only those without an answer are asked about
    result = run(*arguments, "--record", "Hospital B")
    assert [row["patient_id"] for row in asked] == ["B-3"]
    assert "1 (1 with rLVO)" in result.stderr
    assert NOTICE in result.stderr
    assert Path(shown["answers"]).with_suffix(".svg").is_file()
    card = description(evaluated)
    assert "## Evaluated: Hospital B\n- 12 patients, 1 excluded" in card
    assert "1, 1 with rLVO" in card
    assert not [name for name in ("B-", "elsewhere", "planted-hospital") if name in card]


def test_two_models_are_compared_on_the_same_patients(evaluated: TinyStudy, other: Path, elsewhere: Path) -> None:
    work = ("--workdir", evaluated.workdir.path)
    shown = json.loads(run("models", "compare", 1, other, elsewhere, *work, "--json").stdout)
    assert (shown["a"], shown["b"]) == ("rlvo-ensemble/1", str(other))
    assert (shown["patients"], shown["positives"], shown["neither"]) == (10, 2, 1)
    assert shown["delong"]["auc_a"] == pytest.approx(shown["estimates_a"]["auc"]["value"])
    changed = {each["patient_id"] for each in shown["changed"]}
    wrong_or_right = shown["mcnemar"]["only_a"] + shown["mcnemar"]["only_b"]
    assert len(changed) == wrong_or_right  # a changed decision is right for one of them
    shown_as_table = run("models", "compare", CHAMPION, other, elsewhere, *work).stderr
    assert "10 patients (2 with rLVO) whom both answer for" in " ".join(shown_as_table.split())
    assert "neither answers for 1 patients" in shown_as_table


def test_only_their_owner_may_read_the_files_that_name_patients(evaluated: TinyStudy) -> None:
    """The study's own and those of the commands above: search, ensemble, evaluate, report, models compare."""
    named = [path for path in evaluated.workdir.path.rglob("*.csv") if "PLANTED" in path.read_text()]
    assert named, "a study's validation predictions are by id"
    assert not open_to_others(evaluated.workdir.path, "PLANTED", *(f'"B-{i}"' for i in range(12)), "\nB-1")


def test_a_studys_own_patients_are_refused(evaluated: TinyStudy, other: Path) -> None:
    for name, told in (("test", "hold-out of study tiny"), ("development", "made from 3 of these patients")):
        ids = getattr(evaluated.inputs.split, name)[:3]
        path = evaluated.cohort.parent / f"{name}.csv"
        own = evaluated.raw[evaluated.raw["patient_id"].isin(ids)]
        for named in (own, own.assign(patient_id=[f"B-{i}" for i in range(len(own))])):
            named.to_csv(path, index=False)
            assert told in refused("evaluate", other, path, "--workdir", evaluated.workdir.path)


def test_what_is_at_fault_is_said_before_anything_runs(evaluated: TinyStudy, other: Path, elsewhere: Path) -> None:
    work = ("--workdir", evaluated.workdir.path)
    given = ("evaluate", other, elsewhere, *work)
    assert "--again" in refused(*given, "--again", "--reason", "x")
    assert "no description" in refused(*given, "--record", "Hospital B")
    assert "--record" in refused("evaluate", "tiny", *work, "--record", "Hospital B")
    nowhere = evaluated.workdir.path / "nothing"
    assert "no registry" in refused("evaluate", "rlvo-ensemble", elsewhere, "--workdir", nowhere)
