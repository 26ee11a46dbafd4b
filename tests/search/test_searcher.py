"""One Optuna trial a configuration, one Tune trial a configuration × fold; the records are given by hand here."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from rlvo.config.loading import parse_study
from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.config.workdir import Workdir
from rlvo.errors import RlvoError
from rlvo.search.inputs import StudyInputs
from rlvo.search.proposals import Proposals
from rlvo.search.results import trial_folder
from rlvo.search.searcher import FoldSearcher
from rlvo.search.status import study_status
from rlvo.search.trials import TrialFolders
from rlvo.training.records import CompletionRecord, EpochMetrics, TrialIdentity, write_epochs, write_record

FOLDS = 3


class Desk:
    """A study whose trials end as the test says. `open` is what a new process would do."""

    def __init__(self, folder: Path, space: dict, configurations: int | None = None, sampler: str = "grid") -> None:
        search = {"sampler": sampler, "configurations": configurations}
        self.study = parse_study({"name": "study", "space": space, "search": search, "folds": {"folds": FOLDS}})
        self.folder = folder
        self.history: dict[tuple[str, int], list[EpochMetrics]] = {}
        self.records: dict[tuple[str, int], CompletionRecord] = {}
        self.open()

    def open(self) -> None:
        self.proposals = Proposals(self.study, self.folder)
        self.searcher = FoldSearcher(self.study, self.proposals, self)
        self.running: dict[str, dict] = {}

    def record(self, configuration: Configuration, fold: int) -> CompletionRecord | None:
        return self.records.get((configuration.key, fold))

    def epochs(self, configuration: Configuration, fold: int) -> list[EpochMetrics]:
        return self.history.get((configuration.key, fold), [])

    def prune(self, configuration: Configuration, fold: int, reason: str) -> None:
        raise AssertionError("nothing is pruned here")

    def start(self) -> dict | str | None:
        trial = self.searcher.suggest(f"trial-{len(self.running)}")
        if isinstance(trial, dict):
            self.running[f"trial-{len(self.running)}"] = trial
        return trial

    def start_all(self) -> list[dict]:
        trials = []
        while isinstance(trial := self.start(), dict):
            trials.append(trial)
        return trials

    def end(self, trial: dict, auc: float | None, reason: str | None = None) -> None:
        """A record with the AUC, a record that says it failed, or (both None) a crash."""
        configuration = Configuration.model_validate_json(trial["configuration"])
        if auc is not None or reason is not None:
            self.records[trial["key"], trial["fold"]] = CompletionRecord(
                identity=TrialIdentity(study="s", configuration="c", fold=trial["fold"], split_hash="", data_hash=""),
                configuration=configuration,
                status="failed" if reason else "finished",
                reason=reason,
                best_epoch=1,
                epochs=1,
                metrics={} if auc is None else {"val/auc": auc},
                seconds=1,
            )
        [name] = [name for name, running in self.running.items() if running is trial]
        self.searcher.on_trial_complete(name, result={}, error=auc is None and reason is None)

    def optuna(self) -> list[tuple[TrialState, float | None]]:
        return [(trial.state, trial.value) for trial in self.proposals._optuna.trials]


TWO = {"enumerate": {"model.modality": ["NCCT", "CTA"]}}
ONE = {"enumerate": {"model.modality": ["NCCT"]}}


def test_optuna_is_told_the_mean_over_the_folds_once_all_have_ended(tmp_path: Path) -> None:
    desk = Desk(tmp_path, TWO)
    trials = desk.start_all()
    assert [(trial["key"], trial["fold"]) for trial in trials] == [
        (result.configuration.key, fold) for result in desk.searcher.results for fold in range(FOLDS)
    ]
    for trial, auc in zip(trials[:5], (0.5, 0.7, 0.9, 0.6, 0.6), strict=True):
        desk.end(trial, auc)
    assert desk.optuna() == [(TrialState.COMPLETE, pytest.approx(0.7)), (TrialState.RUNNING, None)]
    assert not desk.searcher.finished
    desk.end(trials[5], 0.9)
    assert desk.optuna()[1] == (TrialState.COMPLETE, pytest.approx(0.7))
    assert desk.searcher.finished


def test_the_next_configuration_is_proposed_only_when_a_trial_can_start(tmp_path: Path) -> None:
    desk = Desk(tmp_path, TWO)
    for _ in range(FOLDS):
        desk.start()
    assert len(desk.optuna()) == 1
    desk.start()
    assert len(desk.optuna()) == 2


@pytest.mark.parametrize(("auc", "reason"), [(None, "the loss became nan"), (math.nan, None), (None, None)])
def test_a_failed_fold_fails_the_configuration_and_spares_its_waiting_folds(
    tmp_path: Path, auc: float | None, reason: str | None
) -> None:
    desk = Desk(tmp_path, TWO)
    first, second = desk.start(), desk.start()
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    desk.end(first, auc, reason)
    assert desk.optuna() == [(TrialState.RUNNING, None)]  # its second fold is under way
    desk.end(second, 0.9)
    assert desk.optuna() == [(TrialState.FAIL, None)]
    assert {trial["key"] for trial in desk.start_all()} == {desk.searcher.results[1].configuration.key}
    assert desk.searcher.results[0].state == "failed"
    assert desk.searcher.results[0].auc is None


def test_only_trials_without_a_record_run_after_a_restart(tmp_path: Path) -> None:
    desk = Desk(tmp_path, TWO)
    trials = desk.start_all()
    for trial in trials[:4]:
        desk.end(trial, 0.8)
    desk.open()
    assert [(t["key"], t["fold"]) for t in desk.start_all()] == [(t["key"], t["fold"]) for t in trials[4:]]
    for trial in list(desk.running.values()):
        desk.end(trial, 0.6)
    assert desk.optuna() == [(TrialState.COMPLETE, pytest.approx(0.8)), (TrialState.COMPLETE, pytest.approx(2 / 3))]
    desk.open()
    assert desk.start() == Searcher.FINISHED
    assert desk.searcher.finished


def test_records_alone_bring_a_study_back_whose_journal_is_lost(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "first", TWO)
    for trial in desk.start_all():
        desk.end(trial, 0.8)
    desk.folder = tmp_path / "second"
    desk.open()
    assert desk.start() == Searcher.FINISHED
    assert desk.optuna() == [(TrialState.COMPLETE, pytest.approx(0.8))] * 2


def test_a_training_that_failed_stays_failed_and_a_crash_gets_another_chance(tmp_path: Path) -> None:
    desk = Desk(tmp_path, TWO)
    trials = desk.start_all()
    for trial in trials:
        desk.end(
            trial,
            *((None, "the loss became nan") if trial is trials[0] else (None, None) if trial is trials[3] else (0.8,)),
        )
    desk.open()
    assert [(t["key"], t["fold"]) for t in desk.start_all()] == [(trials[3]["key"], 0)]
    assert len(desk.searcher.results) == 2


def test_duplicates_of_a_configuration_share_their_trials(tmp_path: Path) -> None:
    desk = Desk(
        tmp_path, {"sample": {"model.modality": {"choices": ["NCCT", "CTA"]}}}, configurations=8, sampler="random"
    )
    trials = desk.start_all()
    assert len(trials) == 2 * FOLDS
    assert len(desk.optuna()) == 8
    for trial in trials:
        desk.end(trial, 0.5 + trial["fold"] / 10)
    assert desk.optuna() == [(TrialState.COMPLETE, pytest.approx(0.6))] * 8
    assert len(desk.searcher.results) == 2


def test_a_damaged_record_is_refused_at_the_start(tmp_path: Path) -> None:
    class Damaged(Desk):
        def record(self, configuration: Configuration, fold: int) -> CompletionRecord | None:
            raise RlvoError("altered since it was written")

    with pytest.raises(RlvoError, match="altered"):
        Damaged(tmp_path, ONE).start()


def test_optuna_gets_the_mean_over_the_folds_of_every_epoch_all_folds_have_come_to(tmp_path: Path) -> None:
    desk = Desk(tmp_path, ONE)
    trials = desk.start_all()
    rising = [{"val/loss": 0.5, "val/auc": 0.6}, {"val/loss": 0.4, "val/auc": 0.7}, {"val/loss": 0.45, "val/auc": 0.9}]
    for trial, length in zip(trials, (3, 2, 3), strict=True):
        desk.history[trial["key"], trial["fold"]] = rising[:length]
        desk.searcher.on_trial_result(f"trial-{trial['fold']}", {})
        seen = desk.proposals._optuna.trials[0].intermediate_values
        assert seen == ({} if trial["fold"] < 2 else {1: pytest.approx(0.6), 2: pytest.approx(0.7)})
    desk.history[trials[1]["key"], 1] = rising
    desk.open()  # a new process knows the epochs from disk, and the best epoch is the one with the lowest loss
    assert desk.proposals._optuna.trials[0].intermediate_values[3] == pytest.approx(0.7)


def test_who_is_pruned_after_all_epochs_of_the_first_folds_is_known_from_disk_alone(
    make_study: Callable[..., StudyConfig], opened: Callable[..., StudyInputs], workdir: Workdir
) -> None:
    study = make_study(
        space={"enumerate": {"training.learning_rate": [1e-3, 1e-2]}},
        search={"pruning": "halving", "min_epochs": 1, "first_folds": 1},
    )
    inputs, folder = opened(study), workdir.study("small")
    better, worse = (study.configuration(values) for values in study.grid_points())
    for configuration, auc in ((better, 0.8), (worse, 0.7)):
        place, metrics = trial_folder(folder, configuration, 0), {"train/loss": 0.5, "val/loss": 0.5, "val/auc": auc}
        write_epochs(place, [metrics])
        record = CompletionRecord(
            identity=inputs.identity(configuration, 0),
            configuration=configuration,
            status="finished",
            best_epoch=1,
            epochs=1,
            metrics=metrics,
            seconds=1,
        )
        write_record(place, record)

    searcher = FoldSearcher(study, Proposals(study, folder), TrialFolders(inputs, folder))
    assert searcher.fill()
    assert searcher.suggest("t0") == {
        "key": better.key, "fold": 1, "until": 1, "configuration": better.model_dump_json()
    }  # fmt: skip
    states = {each.key: [trial.state for trial in each.trials] for each in study_status(folder).configurations}
    assert states == {better.key: ["finished", "waiting"], worse.key: ["finished", "pruned"]}

    (folder / "optuna.journal").unlink()
    again = FoldSearcher(study, Proposals(study, folder), TrialFolders(inputs, folder))
    again.fill()
    assert [result.state for result in again.results] == ["unfinished", "pruned"]
    assert "1 of 2 configurations" in again.results[1].prunings[1]
