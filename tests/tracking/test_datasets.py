"""Runs have their patients as datasets; checkpoints are models that can be ranked."""

import time
from collections.abc import Callable

import pytest
from support.study_on_disk import CTA, NCCT, StudyOnDisk

from rlvo.tracking.after_search import log_model_metrics, log_summary_run
from rlvo.tracking.datasets import StudyGroups
from rlvo.training.usage import UsageMeter, read_usage

pytestmark = pytest.mark.slow
DESCRIBING = ("mlflow.note.content", "mlflow.source.name", "mlflow.source.type", "mlflow.user")
"""Tags by which MLflow says what something is and where it comes from."""


def inputs(run) -> dict[str, tuple[str, str]]:
    """Context, name and counts of a run's datasets, by name."""
    return {each.dataset.name: (each.tags[0].value, each.dataset.profile) for each in run.inputs.dataset_inputs}


def models(on_disk: StudyOnDisk) -> list:
    client = on_disk.tracking.client()
    experiment = client.get_experiment_by_name(on_disk.config.name)
    return client.search_logged_models([experiment.experiment_id])


def test_trials_name_their_patients_by_counts_and_hashes(on_disk: StudyOnDisk) -> None:
    on_disk.end_all(NCCT, CTA)
    on_disk.mirror().close()
    for run in on_disk.runs("trial"):
        fold = run.data.params["fold"]
        four = '{"patients": 4}'
        assert inputs(run) == {
            f"fold {fold}, training": ("training", four),
            f"fold {fold}, validation (optimistic)": ("validation", four),
        }
    digests = {each.dataset.digest for run in on_disk.runs("trial") for each in run.inputs.dataset_inputs}
    assert len(digests) == 4  # two per fold, the same for both configurations


def test_other_data_are_other_datasets(new_study: Callable[..., StudyOnDisk]) -> None:
    first, second = (StudyGroups.of(study.folder) for study in (new_study(), new_study(data_hash="e" * 64, folder="b")))
    assert first.validation(0).digest != second.validation(0).digest
    assert len({group.digest for group in (first.optimistic, first.nested, first.holdout, first.training(0))}) == 4
    assert (first.optimistic.patients, first.holdout.patients) == (8, 4)
    assert max(map(len, (first.holdout.digest, second.holdout.digest))) <= 36


def test_kept_checkpoints_are_models_that_a_folds_validation_ranks(new_study: Callable[..., StudyOnDisk]) -> None:
    on_disk = new_study(mlflow={"keep_checkpoints": 3})
    on_disk.end_all(NCCT, CTA)
    on_disk.mirror().close()
    on_disk.mirror().close()  # a second mirror makes no second model
    made = models(on_disk)
    assert len(made) == 3
    runs = {run.info.run_id: run for run in on_disk.runs("trial")}
    for model in made:
        run = runs[model.source_run_id]
        fold = run.data.params["fold"]
        assert model.name in (f"NCCT none, fold {fold}, densenet169", f"CTA daft, fold {fold}, densenet169")
        (auc,) = (metric for metric in model.metrics if metric.key == "best/auc")
        assert (auc.value, auc.step) == (run.data.metrics["best/auc"], 3)
        assert auc.dataset_name == f"fold {fold}, validation (optimistic)"
        assert model.params["backbone"] == "densenet169"
        assert [output.step for output in run.outputs.model_outputs] == [3]
        assert {key: model.tags[key] for key in DESCRIBING} == {key: run.data.tags[key] for key in DESCRIBING}

    fewer = new_study(mlflow={"keep_checkpoints": 1})
    fewer.mirror().close()
    (left,) = models(fewer)
    best = max(run.data.metrics["best/auc"] for run in runs.values())
    assert runs[left.source_run_id].data.metrics["best/auc"] == best


def test_figures_of_an_ensemble_stay_apart_by_how_they_came_about(on_disk: StudyOnDisk) -> None:
    groups = StudyGroups.of(on_disk.folder)
    figures = {groups.optimistic: {"val/auc_mean": 0.8}, groups.nested: {"nested/auc": 0.7}}
    where = on_disk.config, on_disk.folder, on_disk.tracking
    about = {"kind": "ensemble", "key": "0" * 12, "name": "ensemble", "params": {}, "metrics": {}}
    run_id = log_summary_run(*where, **about, datasets=[*figures])
    log_summary_run(*where, **about, datasets=[*figures, groups.holdout])
    client = on_disk.tracking.client()
    run = client.get_run(run_id)
    assert {name: context for name, (context, _) in inputs(run).items()} == {
        "development, optimistic": "validation", "development, nested": "validation", "hold-out": "test"
    }  # fmt: skip
    model = client.create_logged_model(run.info.experiment_id, "ensemble", run_id)
    log_model_metrics(*where, key="0" * 12, model=model.model_id, figures=figures)
    model = client.get_logged_model(model.model_id)
    assert {key: model.tags[key] for key in DESCRIBING} == {key: run.data.tags[key] for key in DESCRIBING}
    shown = {metric.key: (metric.value, metric.dataset_name) for metric in model.metrics}
    assert shown == {
        "val/auc_mean": (0.8, "development, optimistic"), "nested/auc": (0.7, "development, nested")
    }  # fmt: skip


def test_a_study_and_its_configurations_name_the_patients_they_were_validated_on(on_disk: StudyOnDisk) -> None:
    on_disk.end_all(NCCT)
    on_disk.mirror().close()
    for kind in ("study", "configuration"):
        (run,) = on_disk.runs(kind)
        assert inputs(run) == {"development, optimistic": ("validation", '{"patients": 8}')}


@pytest.mark.parametrize("kind", ["study", "configuration", "trial"])
def test_every_run_says_what_it_is_and_where_it_came_from_and_edits_stay(on_disk: StudyOnDisk, kind: str) -> None:
    on_disk.end_all(NCCT)
    on_disk.mirror().close()
    client, run = on_disk.tracking.client(), on_disk.runs(kind)[0]
    assert "optimistic" in run.data.tags["mlflow.note.content"]
    assert "never an indication" in run.data.tags["mlflow.note.content"]
    assert run.data.tags["mlflow.source.type"] == "LOCAL"
    client.set_tag(run.info.run_id, "mlflow.note.content", "mine")
    on_disk.mirror().close()
    assert client.get_run(run.info.run_id).data.tags["mlflow.note.content"] == "mine"


def test_what_epochs_took_of_the_machine_are_metrics_by_epoch(on_disk: StudyOnDisk) -> None:
    on_disk.start(NCCT, 0, on_disk.epochs(0))
    folder = on_disk.trial(NCCT, 0)
    meter = UsageMeter(folder, images=8)
    for epoch in (1, 2, 3):
        meter.after_epoch(epoch)
        time.sleep(0.002)
    on_disk.end(NCCT, 0, on_disk.epochs(0))
    on_disk.mirror().close()
    (run,) = on_disk.runs("trial")
    history = on_disk.tracking.client().get_metric_history(run.info.run_id, "system/images_per_second")
    assert [metric.step for metric in history] == [1, 2, 3]
    assert [metric.timestamp for metric in history] == [each["when"] for each in read_usage(folder).values()]
    assert "when" not in run.data.metrics
    assert not any(name.startswith("best/system") for name in run.data.metrics)
