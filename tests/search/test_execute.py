"""What a search says while it runs, why a trial died; whole searches on a real Ray with real training.

Each run of Tune costs seconds, so a test looks at many things.
"""

import gc
import json
import os
import signal
import traceback
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
import torch
from optuna.trial import TrialState
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.experiment import Trial
from ray.tune.utils.callback import _create_default_callbacks
from sklearn.metrics import roc_auc_score
from support.planted import optuna_trials
from support.privacy import open_to_others
from support.small_study import MakeStudy, OpenStudy

from rlvo.config.loading import parse_study
from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.errors import DiskFullError, MachineError, PatientError
from rlvo.evaluation.predictions import read_predictions
from rlvo.files import atomic_write
from rlvo.search.execute import FORECAST_INTERVAL, TuneEvents, crash_reason, run_search
from rlvo.search.proposals import Proposals
from rlvo.search.searcher import FoldSearcher
from rlvo.search.trainable import STOPS
from rlvo.study.folder import StudyFolder, write_configuration
from rlvo.study.inputs import StudyInputs
from rlvo.study.state import ConfigurationState, StudyState
from rlvo.study.state import TrialState as OneTrial
from rlvo.study.status import read_state
from rlvo.study.trials import TrialStore
from rlvo.training.fit import fit
from rlvo.training.records import KILLED, PREDICTIONS, RECORD, CompletionRecord, read_epochs, read_record, write_epochs
from rlvo.training.usage import SECONDS, USAGE

STUDY = parse_study(
    {"name": "study", "space": {"enumerate": {"model.modality": ["NCCT", "CTA"]}}, "folds": {"folds": 2}}
)


class Search:
    """A search whose trials do what the test says."""

    def __init__(self, study: StudyFolder) -> None:
        self.study, self.told = study, list[StudyState]()
        atomic_write(study.config, STUDY.model_dump_json())
        self.searcher = FoldSearcher(STUDY, Proposals(STUDY, study), TrialStore(study, Mock()))
        self.events = TuneEvents(self.searcher, STUDY, study, self.told.append)
        self.trials: list[Trial] = []

    def start(self) -> Trial:
        trial_id = f"t{len(self.trials)}"
        config = self.searcher.suggest(trial_id)
        assert isinstance(config, dict)
        trial = Trial("train_fold", trial_id=trial_id, config=config, stub=True)
        trial.set_status(Trial.RUNNING)
        folder = self.study.trial(config["key"], config["fold"])
        folder.mkdir(parents=True)
        write_configuration(folder.parent, Configuration.model_validate_json(config["configuration"]))
        self.trials.append(trial)
        return trial

    def fail(self, trial: Trial, reason: str) -> None:
        trial.set_status(Trial.TERMINATED)
        self.searcher.on_trial_complete(trial.trial_id, {"reason": reason})
        self.events.tell(self.trials)

    def states(self) -> list[list[str]]:
        return [[trial.state for trial in each.trials] for each in read_state(self.study).configurations]


def told(study: StudyFolder) -> list[tuple[TrialState, float | None]]:
    """What Optuna was told of each configuration."""
    return [(trial.state, trial.value) for trial in optuna_trials(study, "small")]


def running(state: StudyState) -> list[OneTrial]:
    return [trial for each in state.configurations for trial in each.trials if trial.state == "running"]


def trained_alone(each: ConfigurationState, study: StudyConfig, inputs: StudyInputs, folder: Path) -> CompletionRecord:
    """A configuration's first fold, trained apart from Ray."""
    assert each.configuration is not None
    torch.set_num_threads(1)
    identity = inputs.identity(each.key, 0)
    return fit(each.configuration, inputs.fold_data(0), folder, identity, seed=study.seed, device="cpu")


def written(study: StudyFolder) -> dict[Path, int]:
    """When the files of ended trials were written."""
    ended = [trial for trial in study.trials() if (trial / RECORD).exists()]
    return {path: path.stat().st_mtime_ns for trial in ended for path in trial.rglob("*") if path.is_file()}


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(StudyFolder(tmp_path))


def test_a_failure_without_a_record_is_noted_in_the_folder(search: Search) -> None:
    first = search.start()
    search.events.tell(search.trials)
    assert search.states() == [["running", "waiting"]]
    running = search.told[-1].configurations[0]
    assert [(trial.state, trial.epoch) for trial in running.trials] == [("running", 0), ("waiting", 0)]
    assert running.epochs == 60

    search.fail(first, "no volume of planted-001")
    assert search.states() == [["failed", "skipped"]]
    state = read_state(search.study)
    assert state.configurations[0].trials[0].reason == "no volume of planted-001"
    assert not state.is_complete
    assert search.told[-1].configurations == state.configurations
    assert (search.told[-1].count("failed", "skipped"), search.told[-1].trials_total) == (2, 4)

    search.fail(search.start(), "no volume of planted-002")
    assert read_state(search.study).is_complete


def test_another_start_forgets_failures_that_are_tried_again(search: Search) -> None:
    search.fail(search.start(), "no volume of planted-001")
    again = Search(search.study)
    again.events.tell([])
    assert again.states() == [["waiting", "waiting"]]


def test_a_note_that_says_the_same_is_not_written_again_at_once(search: Search) -> None:
    search.events.tell([])
    written = search.study.progress.stat().st_mtime_ns
    search.events.tell([])
    assert search.study.progress.stat().st_mtime_ns == written
    assert len(search.told) == 2


def test_the_time_to_go_is_told_and_so_are_the_slots(search: Search) -> None:
    first = search.start()
    search.events.tell(search.trials)
    assert (search.told[-1].at_once, search.told[-1].eta_seconds) == (1, None)
    fold = search.study.trial(search.told[-1].configurations[0].key, 0)
    write_epochs(fold, [{"val/loss": 0.5, "val/auc": 0.5}])
    (fold / USAGE).write_text(json.dumps({"epoch": 1, SECONDS: 10.0}))
    search.searcher.on_trial_result(first.trial_id, {})
    search.events._foretold = -FORECAST_INTERVAL
    search.events.tell(search.trials)
    eta = search.told[-1].eta_seconds
    assert eta == pytest.approx(59 * 10 + 3 * 600, abs=5)
    assert read_state(search.study).at_once == 1
    search.events.tell(search.trials)
    assert eta - 5 < (search.told[-1].eta_seconds or 0) < eta, "it runs down between two forecasts"


def test_an_error_that_every_trial_would_meet_ends_the_search(search: Search) -> None:
    trial = search.start()
    with pytest.raises(DiskFullError, match="the disk is full"):
        search.events.on_trial_result(0, [trial], trial, {STOPS: DiskFullError("the disk is full")})


def test_tune_adds_no_callback_that_prints(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    assert _create_default_callbacks([search.events]) == [search.events]


def raised(error: Exception) -> RayTaskError:
    """As Ray passes on what a trial raised, while it handled another error."""
    try:
        try:
            raise KeyError("an earlier one")
        except KeyError:
            raise error  # noqa: B904
    except type(error):
        return RayTaskError("train_fold", traceback.format_exc(), error).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (raised(ValueError("no\n such  thing")), "ValueError: no such thing"),
        (raised(MachineError("no room", where="disk")), "MachineError: disk: no room"),
        (raised(StopIteration()), "StopIteration"),
        (RayActorError(error_msg="the node was running low on memory"), "out of memory: Ray ended its process. Set a"),
        (RayActorError(), "its process died, often for lack of memory"),
    ],
)
def test_the_reason_of_a_crash_is_read_from_the_files_that_tune_writes(
    tmp_path: Path, error: Exception, reason: str
) -> None:
    class LocalTrial(Trial):
        local_path = str(tmp_path)

    trial = LocalTrial("train_fold", trial_id="t0", stub=True)
    trial.handle_error(error)
    Path(trial.pickled_error_file).write_bytes(b"whoever can write here would have it run")
    assert crash_reason(trial).startswith(reason)


@pytest.mark.parametrize(
    ("error", "is_told"),
    [(RayActorError(error_msg="the node was running low on memory"), True), (RayActorError(), False)],
)
def test_a_trial_that_ray_ended_for_lack_of_memory_is_told_to_take_less(
    search: Search, tmp_path: Path, error: Exception, is_told: bool
) -> None:
    class LocalTrial(Trial):
        local_path = str(tmp_path)

    config = search.start().config
    trial = LocalTrial("train_fold", trial_id="t0", config=config, stub=True)
    trial.handle_error(error)
    search.events.on_trial_recover(0, [trial], trial)
    assert (search.study.trial(config["key"], config["fold"]) / KILLED).exists() == is_told


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_search_from_start_to_end(make_small: MakeStudy, open_small: OpenStudy, small_work: Workdir) -> None:
    study = make_small(space={"enumerate": {"training.learning_rate": [1e-3, 1e30], "model.modality": ["NCCT", "CTA"]}})
    inputs, folder, seen = open_small(study), StudyFolder(small_work.study("small")), list[StudyState]()
    spared = set[bool]()

    def note(state: StudyState) -> None:
        seen.append(state)
        spared.add(gc.get_freeze_count() > 0)

    result = run_search(study, inputs, folder, on_state=note)
    assert spared == {False, True}, "what exists before the first trial is never searched for garbage while trials run"
    assert gc.get_freeze_count() == 0

    sound, of_cta, diverged, _ = result.configurations
    assert [each.state for each in result.configurations] == ["finished", "finished", "failed", "failed"]
    # The objective is the mean over the folds, at the best checkpoints, of what the stored predictions say.
    aucs = []
    for fold in range(2):
        predictions = read_predictions(folder.trial(sound.key, fold) / PREDICTIONS)
        assert set(predictions["patient"]) == set(inputs.split.validation(fold))
        aucs.append(roc_auc_score(predictions["label"], predictions["probability"]))
    assert sound.objective == pytest.approx(sum(aucs) / 2)
    assert result.best is not None
    assert result.best.repeats == (max(sound, of_cta, key=lambda each: each.objective or 0.0),)
    assert "nan" in next(iter(diverged.reasons("failed").values()))
    complete = [(TrialState.COMPLETE, sound.objective), (TrialState.COMPLETE, of_cta.objective)]
    assert told(folder) == [*complete, *[(TrialState.FAIL, None)] * 2]

    last = seen[-1]
    assert (last.configurations_total, last.trials_total) == (4, 8)
    assert (last.count("finished"), last.count("failed", "skipped")) == (4, 4)
    assert last.best == result.best
    assert last.is_complete
    assert any(state.count("running") for state in seen)
    assert not seen[0].is_complete
    assert not open_to_others(small_work.path, *inputs.split.development)

    before = written(folder)  # again: what has a record is not run
    again: list[StudyState] = []
    run_search(study, inputs, folder, on_state=again.append)
    assert [state.is_complete for state in again] == [True]
    assert written(folder) == before

    # Trained apart from Ray, a trial is the same.
    alone = trained_alone(sound, study, inputs, small_work.path / "alone")
    assert alone.metrics == sound.records[0].metrics
    assert alone.files == sound.records[0].files


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_patients_bad_volume_stops_the_search_and_once_it_is_repaired_the_search_continues(
    make_small: MakeStudy, open_small: OpenStudy, small_work: Workdir
) -> None:
    study = make_small(space={"enumerate": {"model.modality": ["NCCT", "CTA"]}}, search={"concurrent_trials": 1})
    inputs, folder = open_small(study), StudyFolder(small_work.study("small"))
    patient = inputs.split.folds[0][0]
    volume = inputs.volumes[patient] / "cta.npy"
    away = volume.rename(volume.with_suffix(".away"))
    try:
        volume.write_bytes(bytes(away.stat().st_size))
        with pytest.raises(PatientError, match=patient) as stop:
            run_search(study, inputs, folder)
    finally:
        away.replace(volume)
    assert stop.value.exit_code == 2
    before = written(folder)
    ended = [trial for trial in folder.trials() if (trial / RECORD).exists()]
    assert len(ended) == 2, "of NCCT; no trial of CTA left one, nor ids for MLflow"
    assert [state for state, _ in told(folder)].count(TrialState.FAIL) == 0
    result = run_search(study, inputs, folder)
    assert [each.state for each in result.configurations] == ["finished"] * 2
    after = written(folder)
    assert {path: after[path] for path in before} == before


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_one_and_two_trials_at_a_time_give_the_same_bit_for_bit(
    make_small: MakeStudy, open_small: OpenStudy, small_work: Workdir
) -> None:
    """Ray has no GPU here, so `auto` means none."""
    results, epochs = [], []
    for at_once in (1, 2):
        study = make_small(
            resources={"gpus": "auto"},
            training={"epochs": 3, "batch_size": 4},
            space={"enumerate": {"model.modality": ["NCCT", "BOTH"]}},
            search={"concurrent_trials": at_once},
        )
        folder = StudyFolder(small_work.path / f"at-once-{at_once}")
        result = run_search(study, open_small(study), folder)
        results.append(
            {
                (each.key, fold): record.model_copy(update={"seconds": 0.0})
                for each in result.configurations
                for fold, record in each.records.items()
            }
        )
        epochs.append({path.relative_to(folder.path): path.read_bytes() for path in folder.path.rglob("epochs.jsonl")})
    assert len(results[0]) == len(epochs[0]) == 4
    assert results[0] == results[1]  # metrics, and checksums of weights and predictions
    assert epochs[0] == epochs[1]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_pruned_search_trains_step_by_step_and_its_records_say_who_was_pruned(
    make_small: MakeStudy, open_small: OpenStudy, small_work: Workdir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlvo.search.execute.INTERVAL", 0.0)  # within a second the whole search may be over
    study = make_small(
        training={"epochs": 4, "batch_size": 4},
        space={"enumerate": {"training.learning_rate": [1e-3, 3e-3, 1e-2, 1e-5]}},
        search={"pruning": "halving", "min_epochs": 1, "first_folds": 1, "concurrent_trials": 2},
    )
    inputs, folder, once = open_small(study), StudyFolder(small_work.study("small")), []

    def interrupt(state: StudyState) -> None:
        if not once and sum((trial / RECORD).exists() for trial in folder.trials()) >= 2:
            once.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_search(study, inputs, folder, on_state=interrupt)
    before = written(folder)
    result = run_search(study, inputs, folder)
    after = written(folder)
    assert {path: after[path] for path in before} == before  # what had ended was left alone

    assert sorted(each.state for each in result.configurations) == ["finished", "pruned", "pruned", "pruned"]
    assert result.best is not None
    (finished,) = result.best.repeats
    for each in result.configurations:
        records = [read_record(folder.trial(each.key, fold)) for fold in range(2)]
        if each.key == finished.key:
            assert [record and (record.status, record.epochs) for record in records] == [("finished", 4)] * 2
            continue
        assert records[1] is None
        assert records[0] is not None
        assert records[0].epochs == len(read_epochs(folder.trial(each.key, 0)))
        if records[0].status == "pruned":
            assert records[0].epochs in (1, 2)
            assert "went on and were better" in (records[0].reason or "")
            assert records[0].seconds > 0
    assert sorted(state.name for state, _ in told(folder)) == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]
    again: list[StudyState] = []
    run_search(study, inputs, folder, on_state=again.append)
    assert [state.is_complete for state in again] == [True]

    # Trained in one go, the survivor's trials are the same.
    alone = trained_alone(finished, study, inputs, small_work.path / "alone")
    assert alone.files == finished.records[0].files


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_an_interrupted_search_continues_and_a_dead_process_is_replaced(
    make_small: MakeStudy, open_small: OpenStudy, small_work: Workdir
) -> None:
    epochs_in_all = 200  # on a fast processor 40 take no longer than it takes to interrupt them
    study = make_small(
        training={"epochs": epochs_in_all, "batch_size": 4, "learning_rate": 1e-3},
        search={"max_failures": 1, "concurrent_trials": 1},
    )
    inputs, folder = open_small(study), StudyFolder(small_work.study("small"))
    trials = [folder.trial(study.configuration({}).key, fold) for fold in range(2)]
    once: list[int] = []

    def interrupt(state: StudyState) -> None:
        if not once and any(trial.epoch >= 2 for trial in running(state)):
            once.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_search(study, inputs, folder, on_state=interrupt)
    assert told(folder) == [(TrialState.RUNNING, None)]
    stopped = [read_epochs(trial) for trial in trials]
    assert any(stopped)
    assert all(read_record(trial) is None for trial in trials)

    def kill_the_workers(state: StudyState) -> None:
        if len(once) == 1 and any(trial.epoch >= len(stopped[trial.fold]) + 2 for trial in running(state)):
            once.append(2)
            workers = [
                p for p in psutil.process_iter(["cmdline"]) if "ray::ImplicitFunc" in (p.info["cmdline"] or [""])[0]
            ]
            mine = {child.pid for child in psutil.Process().children(recursive=True)}
            for worker in workers:
                if worker.pid in mine:
                    worker.kill()

    result = run_search(study, inputs, folder, on_state=kill_the_workers)
    assert once == [1, 2]
    assert result.configurations[0].state == "finished"
    assert told(folder) == [(TrialState.COMPLETE, result.configurations[0].objective)]
    for trial, before in zip(trials, stopped, strict=True):
        epochs = read_epochs(trial)
        assert [epoch["epoch"] for epoch in epochs] == list(range(1, epochs_in_all + 1))
        assert epochs[: len(before)] == before  # continued, not started again
