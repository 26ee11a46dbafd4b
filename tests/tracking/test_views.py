"""What MLflow's UI opens by the links that commands print, and what its runs say at first sight."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.study_on_disk import CTA, NCCT, StudyOnDisk

from rlvo.config.study import StudyConfig
from rlvo.mlflow_client import UI, Tracking
from rlvo.tracking.study_items import run_name
from rlvo.tracking.views import StudyPages, all_pages, study_pages, varied

NOTE = "mlflow.note.content"


def view(on_disk: StudyOnDisk, key: str) -> dict[str, object]:
    found = on_disk.tracking.client().get_experiment_by_name(on_disk.config.name)
    return dict(json.loads(found.tags[f"mlflow.sharedViewState.{key}"]))


def test_a_study_has_pages_with_its_own_columns(new_study: Callable[..., StudyOnDisk]) -> None:
    sample = {"training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    axes = {"model.modality": ["NCCT", "CTA"], "model.fusion": ["daft"]}
    on_disk = new_study(space={"enumerate": axes, "sample": sample}, search={"sampler": "tpe", "configurations": 4})
    pages = study_pages(on_disk.config, on_disk.tracking)
    number = on_disk.tracking.open_experiment("fake")[1]
    runs = f"{UI}#/experiments/{number}/runs?workflowType=machine_learning"
    assert pages.trials == f"{runs}&viewStateShareKey=trials"
    assert pages.compared == f"{pages.trials}&compareRunsMode=CHART"
    trials = view(on_disk, "trials")
    assert (trials["searchFilter"], trials["orderByAsc"]) == ("tags.`rlvo.kind` = 'trial'", False)
    chosen = ["params.`modality`", "params.`learning_rate`", "params.`fold`", "metrics.`best/auc`"]
    assert trials["selectedColumns"][:4] == chosen  # type: ignore[index]
    parallel = trials["compareRunCharts"][0]  # type: ignore[index]
    assert (parallel["selectedParams"], parallel["showAllRuns"]) == (["modality", "learning_rate", "fold"], True)


def test_mlflow_finds_sorts_and_names_trials_so_that_they_are_read_at_a_glance(on_disk: StudyOnDisk) -> None:
    on_disk.end_all(NCCT, CTA)
    assert on_disk.mirror().close() is None
    trials, client = view(on_disk, "trials"), on_disk.tracking.client()
    experiment = client.get_experiment_by_name("fake").experiment_id
    found = client.search_runs([experiment], trials["searchFilter"], order_by=[f"{trials['orderByKey']} DESC"])
    scores = [run.data.metrics["best/auc"] for run in found]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    shown = {f"params.`{name}`" for name in found[0].data.params} | {f"metrics.`{n}`" for n in found[0].data.metrics}
    assert {*trials["selectedColumns"]} <= shown  # type: ignore[misc]
    names = {run.info.run_name for run in found if run.data.params["modality"] == "CTA"}
    assert names == {"CTA daft, fold 0, densenet169", "CTA daft, fold 1, densenet169"}
    assert {run.info.run_name for run in on_disk.runs("configuration")} == {run_name(NCCT), run_name(CTA)}
    for run in found:
        picture = f"get-artifact?run_uuid={run.info.run_id}&path=figures/learning-curves.svg"
        link, opening, *_ = run.data.tags[NOTE].split("\n\n")
        assert link == f"[**Curves by epoch**](#/experiments/{experiment}/runs/{run.info.run_id}/model-metrics)"
        assert opening.startswith("[![Learning curves")
        assert f"({picture})" in opening
        assert f"#/experiments/{experiment}/runs/{run.info.run_id}/artifacts/figures/learning-curves.svg)" in opening
        assert (on_disk.logged(run) / "figures" / "learning-curves.svg").is_file()


def test_what_a_user_wrote_about_an_experiment_stays(on_disk: StudyOnDisk) -> None:
    pages = study_pages(on_disk.config, on_disk.tracking)
    client, experiment = on_disk.tracking.open_experiment("fake")
    written = client.get_experiment(experiment).tags[NOTE]
    assert f"[Trials, best first]({pages.trials.removeprefix(UI)})" in written
    client.set_experiment_tag(experiment, NOTE, "mine")
    study_pages(on_disk.config, on_disk.tracking)
    assert client.get_experiment(experiment).tags[NOTE] == "mine"


def test_studies_whose_folder_is_gone_have_pages_too(on_disk: StudyOnDisk) -> None:
    client, other = on_disk.tracking.open_experiment("other")
    study_pages(on_disk.config, on_disk.tracking)
    pages = all_pages({"fake": on_disk.config, "never in MLflow": on_disk.config}, on_disk.tracking, "http://here/")
    assert pages.keys() == {"fake", "other"}
    assert pages["other"] == StudyPages.at("http://here/", other)
    assert "mlflow.sharedViewState.trials" in client.get_experiment(other).tags


def test_a_servers_page_holds_no_password(tmp_path: Path) -> None:
    assert Tracking("https://me:p@ss/w0rd@mlflow.example:5000/", tmp_path).ui == "https://mlflow.example:5000/"


def test_a_study_of_one_configuration_still_has_columns() -> None:
    assert varied(StudyConfig(name="one")) == ("backbone", "modality", "fusion")


def test_a_runs_name_begins_with_what_differs() -> None:
    prior = CTA.model_copy(update={"model": CTA.model.model_copy(update={"prior": True})})
    assert run_name(prior, 3) == "CTA +prior daft, fold 3, densenet169"


def test_the_studys_run_says_how_far_it_is_and_what_is_best(on_disk: StudyOnDisk) -> None:
    on_disk.end_all(NCCT)
    on_disk.end(CTA, 0, on_disk.epochs(9), reason="out of memory")
    on_disk.start(CTA, 1, on_disk.epochs(9))
    assert on_disk.mirror().close() is None
    [study] = on_disk.runs("study")
    best = next(run for run in on_disk.runs("configuration") if run.info.run_name == run_name(NCCT))
    assert study.data.metrics == {
        "trials_finished": 2, "trials_failed": 1, "trials_pruned": 0, "trials_planned": 8,
        "best/auc_mean": best.data.metrics["val/auc_mean"], "best/auc_sd": best.data.metrics["val/auc_sd"],
    }  # fmt: skip
    assert study.data.tags["rlvo.best_configuration"] == f"{run_name(NCCT)} ({NCCT.key})"


def test_a_study_without_a_finished_configuration_has_no_best(on_disk: StudyOnDisk) -> None:
    on_disk.end(NCCT, 0, on_disk.epochs(1), reason="hopeless", status="pruned")
    assert on_disk.mirror().close() is None
    [study] = on_disk.runs("study")
    assert study.data.metrics == {"trials_finished": 0, "trials_failed": 0, "trials_pruned": 1, "trials_planned": 8}


@pytest.mark.parametrize("key", ["trials", "ensembles"])
def test_views_fit_into_a_tag(on_disk: StudyOnDisk, key: str) -> None:
    study_pages(on_disk.config, on_disk.tracking)
    assert len(json.dumps(view(on_disk, key))) < 5000  # MLflow's limit
