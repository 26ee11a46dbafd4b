"""The mirror: what a study folder holds arrives in MLflow, once, whatever happens to either."""

import contextlib
import itertools
import logging
import shutil
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import optuna
import pandas as pd
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from scipy.stats import sem
from support.file_calls import count_calls
from support.mlflow_server import wait_until
from support.study_on_disk import CTA, KEY, NCCT, StudyOnDisk

from rlvo.cohort.pseudonym import pseudonym
from rlvo.errors import MachineError, RlvoError
from rlvo.mlflow_client import Tracking
from rlvo.search.proposals import Proposals
from rlvo.study.status import Note, write_note
from rlvo.tracking import study_items, trial_files
from rlvo.tracking.mirror import Mirror
from rlvo.tracking.runs import RunStatus
from rlvo.training.records import CompletionRecord, read_record

pytestmark = pytest.mark.slow


def everything(on_disk: StudyOnDisk) -> dict[str, tuple[object, ...]]:
    """All that MLflow holds: runs, the full history of every metric, and artifacts with the time they were written."""
    client = on_disk.tracking.client()
    return {
        run.info.run_id: (
            run.info.status,
            run.info.end_time,
            run.data.params,
            run.data.tags,
            {
                name: [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            },
            {
                path.relative_to(on_disk.artifacts): path.stat().st_mtime_ns
                for path in (on_disk.artifacts / run.info.run_id).rglob("*")
                if path.is_file()
            },
        )
        for run in on_disk.runs()
    }


def test_a_finished_study_becomes_a_tree(on_disk: StudyOnDisk) -> None:
    on_disk.end_all(NCCT, CTA)
    assert on_disk.mirror().close() is None

    (study,), configurations, trials = (on_disk.runs(kind) for kind in ("study", "configuration", "trial"))
    assert (len(configurations), len(trials)) == (2, 4)
    assert {*on_disk.statuses()} == {"FINISHED"}
    assert {(run.data.tags["mlflow.user"], run.data.tags["mlflow.source.name"]) for run in on_disk.runs()} == {
        ("rlvo", "rlvo")
    }
    assert {run.data.tags["mlflow.parentRunId"] for run in configurations} == {study.info.run_id}
    parent_of = {run.info.run_id: run.data.params for run in configurations}
    for trial in trials:
        parent = parent_of[trial.data.tags["mlflow.parentRunId"]]
        assert {**parent, "fold": trial.data.params["fold"]} == trial.data.params
        assert trial.data.params["learning_rate"] == "0.0001"
    params = {(run.data.params["modality"], run.data.params["fusion"], run.data.params["fold"]) for run in trials}
    assert params == {("NCCT", "none", "0"), ("NCCT", "none", "1"), ("CTA", "daft", "0"), ("CTA", "daft", "1")}


def test_a_trial_shows_its_epochs_best_metrics_and_files(on_disk: StudyOnDisk) -> None:
    epochs = on_disk.epochs(0)
    on_disk.end(NCCT, 0, epochs)
    on_disk.mirror().sync()

    (trial,) = on_disk.runs("trial")
    for name in epochs[0]:
        assert on_disk.history(trial, name) == [(step, epoch[name]) for step, epoch in enumerate(epochs, 1)]
    assert trial.data.metrics["best/auc"] == epochs[-1]["val/auc"]
    assert trial.data.metrics["seconds"] == 1.5
    folder, weights = on_disk.logged(trial), "best/model.safetensors"
    assert (folder / weights).read_bytes() == (on_disk.trial(NCCT, 0) / weights).read_bytes()
    logged = pd.read_csv(folder / "validation_predictions.csv", float_precision="round_trip")
    stored = pd.read_csv(on_disk.trial(NCCT, 0) / "predictions.csv", float_precision="round_trip")
    assert logged["patient"].str.fullmatch("p-[0-9a-f]{12}").all()
    pd.testing.assert_frame_equal(logged.drop(columns="patient"), stored.drop(columns="patient"))


def test_a_trial_shows_the_curves_it_has_when_it_has_ended(on_disk: StudyOnDisk) -> None:
    def figures() -> dict[tuple[str, str], set[str]]:
        runs = on_disk.runs("trial")
        return {
            (run.data.params["modality"], run.data.params["fold"]): {
                path.name for path in (on_disk.logged(run) / "figures").glob("*.svg")
            }
            for run in runs
        }

    mirror = on_disk.mirror()
    on_disk.start(NCCT, 0, on_disk.epochs(0))
    mirror.sync()
    assert figures() == {("NCCT", "0"): set()}
    on_disk.end(NCCT, 0, on_disk.epochs(0))
    on_disk.end(NCCT, 1, on_disk.epochs(1), reason="below the others at epoch 3", status="pruned")
    on_disk.end(CTA, 0, [], reason="the loss is nan in epoch 1")
    mirror.sync()
    both = {"learning-curves.svg", "roc.svg"}
    assert figures() == {("NCCT", "0"): both, ("NCCT", "1"): {"learning-curves.svg"}, ("CTA", "0"): set()}


def test_pictures_hold_up_nothing_and_come_later(on_disk: StudyOnDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures and predictions of all trials first; what lacks pictures gets them from the next start, and once."""
    on_disk.end_all(NCCT, CTA)
    mirror = on_disk.mirror()
    monkeypatch.setattr(study_items, "DRAWING_SECONDS", -1)
    mirror.sync()
    for run in on_disk.runs("trial"):
        assert (run.info.status, run.data.metrics["best/auc"]) == ("FINISHED", on_disk.history(run)[-1][1])
        assert "rlvo.digest" not in run.data.tags
        assert {path.name for path in on_disk.logged(run).iterdir()} == {"best", "validation_predictions.csv"}
    calls = count_calls(mirror.sync)
    assert mirror.close(interrupted=True) == "MLflow lacks pictures of 4 trial(s): the next start adds them"
    assert on_disk.mirror().close() is None
    for run in on_disk.runs("trial"):
        assert "rlvo.digest" in run.data.tags
        assert {path.name for path in (on_disk.logged(run) / "figures").iterdir()} == {"learning-curves.svg", "roc.svg"}
    before, last = everything(on_disk), on_disk.mirror()
    assert last.close() is None
    assert everything(on_disk) == before
    assert count_calls(last.sync) == calls


def test_a_trial_that_is_damaged_before_its_pictures_are_drawn_says_so(
    on_disk: StudyOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk.end_all(NCCT)
    mirror = on_disk.mirror()
    monkeypatch.setattr(study_items, "DRAWING_SECONDS", -1)
    mirror.sync()
    monkeypatch.undo()
    path = on_disk.trial(NCCT, 1) / "epochs.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"\0" * len(whole))
    with pytest.raises(RlvoError, match=r"epochs\.jsonl"):
        mirror.sync()
    path.write_bytes(whole)
    assert mirror.close() is None
    assert all("rlvo.digest" in run.data.tags for run in on_disk.runs("trial"))


def test_a_configuration_has_mean_and_sd_once_all_folds_are_done(on_disk: StudyOnDisk) -> None:
    folds = [on_disk.epochs(fold) for fold in range(2)]
    mirror = on_disk.mirror()
    on_disk.end(NCCT, 0, folds[0])
    mirror.sync()
    (configuration,) = on_disk.runs("configuration")
    assert configuration.info.status == "RUNNING"
    assert configuration.data.metrics == {}

    on_disk.end(NCCT, 1, folds[1])
    mirror.sync()
    (configuration,) = on_disk.runs("configuration")
    aucs = [epochs[-1]["val/auc"] for epochs in folds]
    assert configuration.info.status == "FINISHED"
    assert configuration.data.metrics["val/auc_mean"] == pytest.approx(np.mean(aucs), abs=1e-12)
    assert configuration.data.metrics["val/auc_sd"] == pytest.approx(np.std(aucs, ddof=1), abs=1e-12)
    assert configuration.data.metrics["val/auc_se"] == pytest.approx(sem(aucs), abs=1e-12)


def test_a_second_sync_and_a_new_process_write_nothing(on_disk: StudyOnDisk) -> None:
    on_disk.end_all(NCCT)
    on_disk.end(CTA, 0, [], reason="the loss is nan in epoch 1")
    on_disk.start(CTA, 1, on_disk.epochs(3))
    mirror = on_disk.mirror()
    mirror.sync()
    before = everything(on_disk)
    mirror.sync()
    assert everything(on_disk) == before
    on_disk.mirror().sync()
    assert everything(on_disk) == before


def test_a_sync_of_what_is_delivered_costs_the_same_however_much_that_is(
    new_study: Callable[..., StudyOnDisk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_files, "AGAIN", 1)
    on_disk = new_study(space={"enumerate": {"training.repeat": list(range(6))}}, search={"configurations": 6})
    configurations = [on_disk.config.configuration({"training.repeat": repeat}) for repeat in range(6)]
    calls = []
    for number in (1, 6):
        on_disk.end_all(*configurations[:number])
        mirror = on_disk.mirror()
        mirror.sync()
        calls.append(count_calls(mirror.sync))
    assert calls[0] == calls[1]


def test_what_was_delivered_is_looked_at_again_in_turn_and_at_the_end(
    on_disk: StudyOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that somebody deletes, so that the trial is completed again."""
    monkeypatch.setattr(trial_files, "AGAIN", 1)
    on_disk.end_all(NCCT, CTA)
    mirror = on_disk.mirror()
    mirror.sync()
    for configuration in (NCCT, CTA):
        (on_disk.trial(configuration, 0) / "record.json").unlink()
        for _ in range(2):
            mirror.sync()
        assert on_disk.statuses("trial").count("RUNNING") == 1
        on_disk.end(configuration, 0, on_disk.epochs(0))
        mirror.sync()
        assert {*on_disk.statuses("trial")} == {"FINISHED"}
    (on_disk.trial(NCCT, 1) / "record.json").unlink()
    mirror.close(interrupted=True)
    assert on_disk.statuses("trial").count("KILLED") == 1


def test_what_mlflow_holds_is_not_read_again_but_weights_are_checked_before_they_are_copied(
    new_study: Callable[..., StudyOnDisk],
) -> None:
    on_disk = new_study(mlflow={"keep_checkpoints": 1})
    on_disk.end_all(NCCT)
    assert on_disk.mirror().close() is None
    kept = {run.data.params["fold"] for run in on_disk.runs("trial") if "rlvo.checkpoint" in run.data.tags}
    (other,) = {"0", "1"} - kept
    path = on_disk.trial(NCCT, int(other)) / "best/model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(b"\0" * len(whole))
    assert on_disk.mirror().close() is None, "MLflow holds all of what it is to hold"
    more = new_study(mlflow={"keep_checkpoints": 2})
    problem = more.mirror().close()
    assert problem is not None
    assert problem.startswith("MLflow is missing 1 trial(s)")
    assert "model.safetensors" in problem
    path.write_bytes(whole)
    assert more.mirror().close() is None
    assert len([run for run in on_disk.runs("trial") if "rlvo.checkpoint" in run.data.tags]) == 2


def test_weights_that_mlflow_is_not_to_keep_are_not_read(new_study: Callable[..., StudyOnDisk]) -> None:
    on_disk = new_study(mlflow={"keep_checkpoints": 1})
    on_disk.end_all(NCCT)
    trials = [on_disk.trial(NCCT, fold) for fold in range(2)]
    best, other = sorted(trials, key=lambda trial: -(cast(CompletionRecord, read_record(trial)).objective or 0))
    weights = [trial / "best/model.safetensors" for trial in (other, best)]
    for path in weights:
        path.write_bytes(b"\0" * path.stat().st_size)
    problem = on_disk.mirror().close()
    assert problem is not None
    assert problem.startswith("MLflow is missing 1 trial(s)")
    assert str(weights[1].relative_to(on_disk.workdir)) in problem
    assert on_disk.statuses("trial") == ["FINISHED", "FINISHED"]


def test_a_database_that_was_lost_gets_everything_again(on_disk: StudyOnDisk) -> None:
    on_disk.end_all(NCCT)
    mirror = on_disk.mirror()
    mirror.sync()
    mirror._tree = None  # as after an error
    for run in on_disk.runs():
        on_disk.tracking.client().delete_run(run.info.run_id)
    mirror.sync()
    assert {*on_disk.statuses("trial")} == {"FINISHED"}
    assert [on_disk.history(run)[-1][0] for run in on_disk.runs("trial")] == [3, 3]


def test_epochs_arrive_by_step_across_mirrors_too(on_disk: StudyOnDisk) -> None:
    epochs = on_disk.epochs(0, count=250)
    mirror = on_disk.mirror()
    for count in (1, 2, 130):
        on_disk.start(NCCT, 0, epochs[:count])
        mirror.sync()
    on_disk.end(NCCT, 0, epochs)
    on_disk.mirror().sync()
    (trial,) = on_disk.runs("trial")
    assert on_disk.history(trial) == [(step, epoch["val/auc"]) for step, epoch in enumerate(epochs, 1)]


def test_an_interrupted_study_leaves_no_run_running_and_continues(on_disk: StudyOnDisk) -> None:
    on_disk.start(NCCT, 0, on_disk.epochs(0)[:1])
    with pytest.raises(KeyboardInterrupt), on_disk.mirror():
        raise KeyboardInterrupt
    assert {*on_disk.statuses()} == {"KILLED"}
    again = on_disk.mirror()
    again.sync()
    assert {*on_disk.statuses()} == {"RUNNING"}
    again.close(interrupted=True)
    assert {*on_disk.statuses()} == {"KILLED"}
    on_disk.end_all(NCCT)
    on_disk.mirror().close()
    assert on_disk.statuses() == ["FINISHED"] * 4


def test_an_interruption_while_it_ends_leaves_no_run_running_either(
    on_disk: StudyOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk.start(CTA, 0, on_disk.epochs(0)[:1])
    on_disk.mirror().sync()
    on_disk.end_all(NCCT, CTA)
    as_usual, moments = MlflowClient.log_batch, itertools.count()

    def interrupt(*arguments: object, **options: object) -> None:
        if next(moments) == 5:
            raise KeyboardInterrupt
        as_usual(*arguments, **options)

    monkeypatch.setattr(MlflowClient, "log_batch", interrupt)
    with pytest.raises(KeyboardInterrupt), on_disk.mirror():
        pass
    assert {*on_disk.statuses()} == {"FINISHED"}
    before = everything(on_disk)
    assert on_disk.mirror().close() is None
    assert everything(on_disk) == before


def test_an_interruption_while_it_waits_for_its_thread_makes_no_second_writer(
    on_disk: StudyOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk.end_all(NCCT)
    mirror, main, as_usual = on_disk.mirror(), threading.main_thread().ident, Mirror.sync
    begun, forgets, goes_on = threading.Event(), threading.Event(), threading.Event()
    turn, second = threading.Lock(), list[object]()

    def sync(self: Mirror, closing: RunStatus | None = None) -> None:
        if not turn.acquire(blocking=False):
            second.append(closing)
            return
        try:
            if closing is None:
                begun.set()
                assert goes_on.wait(60)
            as_usual(self, closing)
        finally:
            turn.release()

    def is_waiting() -> bool:
        return main is not None and sys._current_frames()[main].f_code.co_filename == threading.__file__

    def interrupt() -> None:
        wait_until(lambda: mirror._stop.is_set() and is_waiting())
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        assert forgets.wait(60)
        wait_until(lambda: bool(second) or is_waiting())
        goes_on.set()

    def forget(know_nothing: Callable[[], None] = mirror._know_nothing) -> None:
        know_nothing()
        forgets.set()

    monkeypatch.setattr(mirror, "_know_nothing", forget)
    monkeypatch.setattr(mirror, "start", partial(mirror.start, 0.0))
    monkeypatch.setattr(Mirror, "sync", sync)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # processes of pytest-xdist ignore it
    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        with pytest.raises(KeyboardInterrupt), mirror:
            assert begun.wait(60)
        interrupter.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert second == []
    assert {*on_disk.statuses()} == {"FINISHED"}


def test_a_failed_fold_fails_its_configuration(on_disk: StudyOnDisk) -> None:
    patient, path = on_disk.split.test[0], on_disk.workdir / "cohort.csv"
    on_disk.end(NCCT, 0, on_disk.epochs(0), reason=f"no volume for {patient} at {path} in epoch 4")
    on_disk.end(NCCT, 1, on_disk.epochs(1))
    on_disk.start(CTA, 0)
    on_disk.mirror().close()
    status = {run.data.params["modality"]: run for run in on_disk.runs("configuration")}
    assert status["NCCT"].info.status == "FAILED"
    assert status["NCCT"].data.metrics == {}
    assert status["CTA"].info.status == "FAILED", "a trial that left no record has failed"
    failed = next(run for run in on_disk.runs("trial") if "rlvo.reason" in run.data.tags)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["rlvo.reason"] == f"no volume for {pseudonym(patient, KEY)} at …"


def test_studies_of_one_name_on_other_data_stay_apart(new_study: Callable[..., StudyOnDisk]) -> None:
    first, second = new_study(), new_study(data_hash="e" * 64, folder="a work folder/other")
    for study in (first, second):
        study.end_all(NCCT)
        study.mirror(first.tracking).close()
    assert [len(first.runs(kind)) for kind in ("study", "configuration", "trial")] == [2, 2, 4]


def test_an_extended_study_shows_its_new_settings(new_study: Callable[..., StudyOnDisk]) -> None:
    small = new_study(search={"configurations": 1})
    small.end(NCCT, 0, small.epochs(0))
    small.mirror().close()
    new_study(search={"configurations": 2}).mirror().close()
    (study,) = small.runs("study")
    assert '"configurations": 2' in (small.logged(study) / "study.json").read_text()


def test_a_server_that_is_away_is_logged_once_and_gets_everything_later(
    on_disk: StudyOnDisk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = Tracking(f"http://me:p@ss/w0rd@127.0.0.1:{free.getsockname()[1]}", on_disk.artifacts)
    on_disk.end(NCCT, 0, on_disk.epochs(0))
    mirror = on_disk.mirror(nobody)
    with pytest.raises(MachineError):
        mirror.sync()
    with caplog.at_level(logging.WARNING, logger="rlvo"):
        mirror.start(interval=0.05)
        time.sleep(1)
        problem = mirror.close()
    assert problem is not None
    assert problem.startswith("MLflow is missing 1 trial(s)")
    assert "\n" not in problem
    assert len(caplog.records) == 1
    assert "w0rd" not in problem + caplog.text
    assert on_disk.mirror().close() is None
    assert len(on_disk.runs("trial")) == 1


def test_a_store_that_takes_no_artifacts_holds_up_no_metrics(
    on_disk: StudyOnDisk, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a full disk, but a file in the store's place refuses for sure, and root too."""
    on_disk.artifacts.write_text("")
    on_disk.end_all(NCCT, CTA)
    mirror = on_disk.mirror()
    with caplog.at_level(logging.WARNING, logger="rlvo"):
        mirror.start(interval=0.05)
        wait_until(lambda: len(on_disk.runs("trial")) == 4 and {*on_disk.statuses("trial")} == {"FINISHED"})
        problem = mirror.close()
    assert problem is not None
    assert problem.startswith("MLflow is missing 4 trial(s) that are on disk: ")
    assert len(caplog.records) == 1
    for run in on_disk.runs("trial"):
        assert [step for step, _ in on_disk.history(run)] == [1, 2, 3]
        assert "best/auc" in run.data.metrics
        assert not {"rlvo.digest", "rlvo.checkpoint", "rlvo.model"} & run.data.tags.keys()
    on_disk.artifacts.unlink()
    assert on_disk.mirror().close() is None
    for run in on_disk.runs("trial"):
        assert (on_disk.logged(run) / "best" / "model.safetensors").is_file()
        assert (on_disk.logged(run) / "validation_predictions.csv").is_file()
        assert {"rlvo.digest", "rlvo.checkpoint", "rlvo.model"} <= run.data.tags.keys()


def test_a_model_that_was_logged_by_half_is_completed(on_disk: StudyOnDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    on_disk.end(NCCT, 0, on_disk.epochs(0))
    mirror = on_disk.mirror()
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_outputs", interrupt)
        with pytest.raises(KeyboardInterrupt):
            mirror.sync()
    assert on_disk.mirror().close() is None
    client, (trial,) = on_disk.tracking.client(), on_disk.runs("trial")
    (model,) = client.search_logged_models([trial.info.experiment_id])
    assert (model.model_id, model.status) == (trial.data.tags["rlvo.model"], "READY")
    assert [each.model_id for each in trial.outputs.model_outputs] == [model.model_id]
    assert len(on_disk.history(trial, "best/auc")) == 2  # of the run, and of its model


def test_a_pruned_configuration_is_killed_and_counts_as_ended(new_study: Callable[..., StudyOnDisk]) -> None:
    on_disk = new_study(search={"configurations": 2})
    on_disk.end(NCCT, 0, on_disk.epochs(0)[:1], reason="below the others at epoch 1", status="pruned")
    on_disk.end(NCCT, 1, [], reason="below the others at epoch 1", status="pruned")
    on_disk.end_all(CTA)
    mirror = on_disk.mirror()
    mirror.sync()
    status = {run.data.params["modality"]: run.info.status for run in on_disk.runs("configuration")}
    assert status == {"NCCT": "KILLED", "CTA": "FINISHED"}
    assert on_disk.statuses("trial") == ["FINISHED", "FINISHED", "KILLED", "KILLED"]
    assert on_disk.statuses("study") == ["FINISHED"]
    before = everything(on_disk)
    assert mirror.close(interrupted=True) is None
    assert everything(on_disk) == before


def test_trials_that_had_started_are_killed_with_their_pruned_configuration(on_disk: StudyOnDisk) -> None:
    on_disk.end(NCCT, 0, on_disk.epochs(0), reason="below the others at epoch 3", status="pruned")
    on_disk.start(NCCT, 1)
    on_disk.mirror().sync()
    assert on_disk.statuses("trial") == ["KILLED"] * 2


def test_a_trial_that_waits_for_others_shows_scheduled(on_disk: StudyOnDisk) -> None:
    def status() -> list[str]:
        return [run.info.status for run in sorted(on_disk.runs("trial"), key=lambda run: run.data.params["fold"])]

    mirror = on_disk.mirror()
    for fold in range(2):
        on_disk.start(NCCT, fold, on_disk.epochs(fold)[:1])
    for running, shown in ((0, ["RUNNING", "SCHEDULED"]), (1, ["SCHEDULED", "RUNNING"])):
        write_note(on_disk.folder, Note(running=frozenset({(NCCT.key, running)})))
        mirror.sync()
        assert status() == shown
    on_disk.mirror().close(interrupted=True)  # another process, after this one was killed
    assert {*on_disk.statuses()} == {"KILLED"}


def test_the_best_trial_and_configuration_are_tagged_and_they_alone(on_disk: StudyOnDisk) -> None:
    def tagged(kind: str) -> list[str]:
        return [run.data.params["modality"] for run in on_disk.runs(kind) if "rlvo.best" in run.data.tags]

    mirror, epochs = on_disk.mirror(), on_disk.epochs(0)
    for auc, configuration, best in ((0.6, NCCT, ["NCCT"]), (0.8, CTA, ["CTA"])):
        for fold in range(2):
            on_disk.end(configuration, fold, [*epochs, {**epochs[-1], "val/auc": auc + fold / 100}])
        mirror.sync()
        assert tagged("configuration") == tagged("trial") == best
    (best_trial,) = [run for run in on_disk.runs("trial") if "rlvo.best" in run.data.tags]
    assert best_trial.data.params["fold"] == "1"


def test_a_lucky_repeat_is_not_the_best(on_disk: StudyOnDisk) -> None:
    """CTA's mean over two repeats is .75, NCCT's .7 with one repeat at .9."""
    mirror, epochs = on_disk.mirror(), on_disk.epochs(0)
    keys = {}
    for configuration, repeat, auc in ((NCCT, 0, 0.5), (NCCT, 1, 0.9), (CTA, 1, 0.8), (CTA, 0, 0.7)):
        training = configuration.training.model_copy(update={"repeat": repeat})
        own = configuration.model_copy(update={"training": training})
        keys[configuration.model.modality, repeat] = own.key
        for fold in range(2):
            on_disk.end(own, fold, [*epochs, {**epochs[-1], "val/auc": auc + fold / 100}])
    mirror.sync()
    (best,) = [run for run in on_disk.runs("configuration") if "rlvo.best" in run.data.tags]
    assert best.data.tags["rlvo.configuration"] == keys["CTA", 0]
    (study,) = on_disk.runs("study")
    assert study.data.metrics["best/auc_mean"] == pytest.approx(0.755)
    assert study.data.metrics["best/auc_sd"] == pytest.approx(0.01 / 2**0.5)
    assert keys["CTA", 0] in study.data.tags["rlvo.best_configuration"]


def test_half_a_configuration_is_not_the_best(on_disk: StudyOnDisk) -> None:
    on_disk.end(NCCT, 0, on_disk.epochs(0))
    on_disk.end(CTA, 0, on_disk.epochs(1))
    on_disk.end(CTA, 1, [], reason="the loss is nan in epoch 1")
    on_disk.mirror().close()
    assert not any("rlvo.best" in run.data.tags for run in on_disk.runs("configuration"))
    assert len([run for run in on_disk.runs("trial") if "rlvo.best" in run.data.tags]) == 1


@pytest.mark.parametrize("keep", [1, 3, None])
def test_only_the_best_checkpoints_stay(new_study: Callable[..., StudyOnDisk], keep: int | None) -> None:
    on_disk = new_study(mlflow={"keep_checkpoints": keep})

    def kept() -> set[float]:
        held = [run for run in on_disk.runs("trial") if (on_disk.logged(run) / "best/model.safetensors").exists()]
        return {run.data.metrics["best/auc"] for run in held}

    mirror, aucs = on_disk.mirror(), []
    for auc, configuration, fold in ((0.7, NCCT, 0), (0.6, NCCT, 1), (0.9, CTA, 0), (0.8, CTA, 1)):
        aucs.append(auc)
        on_disk.end(configuration, fold, [{**on_disk.epochs(0)[0], "val/auc": auc}])
        mirror.sync()
        assert kept() == set(sorted(aucs, reverse=True)[:keep])
        assert (on_disk.trial(configuration, fold) / "best/model.safetensors").exists()
    before = everything(on_disk)
    on_disk.mirror().close(interrupted=True)
    on_disk.mirror().sync()
    after = everything(on_disk)
    assert {id: each[-1] for id, each in after.items()} == {id: each[-1] for id, each in before.items()}


@pytest.mark.parametrize(("limits", "kept"), [((3, 2.5), 2), ((1, 2.5), 1), ((3, 0.5), 0), ((None, 9.0), 4)])
def test_checkpoints_stay_within_a_disk_budget(
    new_study: Callable[..., StudyOnDisk], limits: tuple[int | None, float], kept: int
) -> None:
    keep, files = limits
    on_disk = new_study()
    for seed, (configuration, fold) in enumerate(itertools.product((NCCT, CTA), range(2))):
        on_disk.end(configuration, fold, on_disk.epochs(seed))
    size = (on_disk.trial(NCCT, 0) / "best/model.safetensors").stat().st_size
    on_disk.mirror().close()
    new_study(mlflow={"keep_checkpoints": keep, "checkpoint_gb": files * size / 1e9}).mirror().close()
    ranked = sorted(on_disk.runs("trial"), key=lambda run: -run.data.metrics["best/auc"])
    holds = [(on_disk.logged(run) / "best/model.safetensors").exists() for run in ranked]
    assert sorted(holds, reverse=True) == holds
    assert sum(holds) == kept


def test_runs_made_twice_are_one_again(on_disk: StudyOnDisk) -> None:
    on_disk.end(NCCT, 0, on_disk.epochs(0))
    on_disk.mirror().close(interrupted=True)
    before = everything(on_disk)
    client = on_disk.tracking.client()
    for run in on_disk.runs():
        tags = {name: run.data.tags[name] for name in ("rlvo.kind", "rlvo.identity")}
        client.create_run(run.info.experiment_id, tags=tags, start_time=run.info.start_time - 1)
    on_disk.mirror().close(interrupted=True)
    assert everything(on_disk) == before


def test_a_trial_whose_folder_was_deleted_leaves_no_run_running(on_disk: StudyOnDisk) -> None:
    on_disk.start(NCCT, 0, on_disk.epochs(0)[:1])
    on_disk.end(NCCT, 1, on_disk.epochs(1))
    on_disk.mirror().sync()
    shutil.rmtree(on_disk.trial(NCCT, 0))
    on_disk.mirror().close(interrupted=True)
    assert "RUNNING" not in on_disk.statuses()


@pytest.mark.parametrize("name", ["record.json", "epochs.jsonl", "best/model.safetensors"])
def test_a_damaged_trial_holds_up_no_other(on_disk: StudyOnDisk, name: str) -> None:
    on_disk.end(NCCT, 0, on_disk.epochs(0))
    on_disk.end(CTA, 0, on_disk.epochs(1))
    path = min(on_disk.trial(NCCT, 0), on_disk.trial(CTA, 0)) / name
    whole = path.read_bytes()
    path.write_bytes(b"\0" * len(whole))
    mirror = on_disk.mirror()
    with pytest.raises(RlvoError, match=name):
        mirror.sync()
    assert on_disk.statuses("trial") == ["FINISHED", "RUNNING"]
    problem = mirror.close()
    assert problem is not None
    assert problem.startswith("MLflow is missing 1 trial(s)")
    assert on_disk.statuses("trial") == ["FAILED", "FINISHED"]
    path.write_bytes(whole)
    assert on_disk.mirror().close() is None
    assert on_disk.statuses("trial") == ["FINISHED", "FINISHED"]


def test_a_configuration_without_its_file_is_known_from_a_record(on_disk: StudyOnDisk) -> None:
    on_disk.end(NCCT, 0, on_disk.epochs(0))
    path = on_disk.trial(NCCT, 0).parent / "configuration.json"
    path.write_bytes(b"\0" * 8)
    assert on_disk.mirror().close() is None
    (on_disk.trial(NCCT, 0) / "record.json").unlink()
    with pytest.raises(RlvoError, match=r"configuration\.json"):
        on_disk.mirror().sync()
    assert "configuration.json" in (on_disk.mirror().close() or "")


def test_an_optuna_trial_leads_to_its_folder_and_its_runs(on_disk: StudyOnDisk) -> None:
    proposals = [Proposals(on_disk.config, on_disk.folder).propose() for _ in range(2)]
    on_disk.end_all(*(proposal.configuration for proposal in proposals))
    on_disk.mirror().close()
    storage = JournalStorage(JournalFileBackend(str(on_disk.workdir / "studies/fake/optuna.journal")))  # as documented
    client = on_disk.tracking.client()
    experiment = client.get_experiment_by_name("fake").experiment_id
    for trial, proposal in zip(optuna.load_study(study_name=None, storage=storage).trials, proposals, strict=True):
        folder = on_disk.folder.path / trial.user_attrs["folder"]
        assert {path.name for path in folder.glob("fold-*")} == {"fold-0", "fold-1"}
        runs = client.search_runs([experiment], trial.user_attrs["runs in MLflow"])
        assert sorted(run.data.tags["rlvo.kind"] for run in runs) == ["configuration", "trial", "trial"]
        assert {run.data.tags["rlvo.configuration"] for run in runs} == {proposal.key}


def test_a_locked_database_is_waited_for_and_served_while_trials_run(on_disk: StudyOnDisk) -> None:
    on_disk.start(NCCT, 0, on_disk.epochs(0)[:1])
    mirror = on_disk.mirror()
    mirror.sync()
    with contextlib.closing(sqlite3.connect(on_disk.workdir / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        on_disk.end(NCCT, 0, on_disk.epochs(0))
        mirror.start(interval=0.05)
        on_disk.start(NCCT, 1)
        time.sleep(2)
    wait_until(lambda: on_disk.statuses("trial") == ["FINISHED", "RUNNING"])
    assert mirror.close(interrupted=True) is None
    (trial,) = [run for run in on_disk.runs("trial") if run.info.status == "FINISHED"]
    assert [step for step, _ in on_disk.history(trial)] == [1, 2, 3]
