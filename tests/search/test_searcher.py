"""One Optuna trial per configuration, one Tune trial per configuration and fold; the records are given by hand here."""

import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher
from support.planted import PRUNING, PlantedTrials, optuna_trials, planted_study, search
from support.study_on_disk import StudyOnDisk

from rlvo.config import model
from rlvo.config.loading import parse_study
from rlvo.config.model import Configuration
from rlvo.errors import RlvoError
from rlvo.search.proposals import Proposals
from rlvo.search.searcher import MEANS_OF_RESULT, FoldSearcher
from rlvo.study.folder import StudyFolder
from rlvo.study.status import read_state
from rlvo.study.trials import TrialStore

FOLDS = 3
TWO = {"enumerate": {"model.modality": ["NCCT", "CTA"]}}
ONE = {"enumerate": {"model.modality": ["NCCT"]}}


class Desk(PlantedTrials):
    """A study whose trials end as the test says. `open` is what a new process would do."""

    def __init__(
        self,
        folder: Path,
        space: dict[str, Any],
        configurations: int | None = None,
        sampler: str = "grid",
        **pruning: object,
    ) -> None:
        super().__init__(seed=0)
        search = {"sampler": sampler, "configurations": configurations, **pruning}
        self.config = parse_study({"name": "study", "space": space, "search": search, "folds": {"folds": FOLDS}})
        self.study = StudyFolder(folder)
        self.open()

    def open(self) -> None:
        self.searcher = FoldSearcher(self.config, Proposals(self.config, self.study), self)
        self.running: dict[str, dict[str, Any]] = {}

    def start(self) -> dict[str, Any] | str | None:
        trial = self.searcher.suggest(f"trial-{len(self.running)}")
        if isinstance(trial, dict):
            self.running[f"trial-{len(self.running)}"] = trial
        return trial

    def take_back(self) -> list[tuple[str, int]]:
        """Let Tune drop what it need not start: keys and folds."""
        needless = [name for name in self.running if self.searcher.is_needless(name)]
        for name in needless:
            self.searcher.on_trial_complete(name)
        return [(self.running[name]["key"], self.running[name]["fold"]) for name in needless]

    def start_all(self) -> list[dict[str, Any]]:
        trials = []
        while isinstance(trial := self.start(), dict):
            trials.append(trial)
        return trials

    def end(self, trial: dict[str, Any], auc: float | None, reason: str | None = None) -> None:
        """End with a record that has the AUC, with a record that says why it failed, or (both None) with a crash."""
        key, fold = trial["key"], trial["fold"]
        if auc is not None:
            self.history[key, fold] = [{"val/loss": 0.5, "val/auc": auc}]
        if auc is not None or reason is not None:
            status = "failed" if reason else "finished"
            self.note_end(key, fold, Configuration.model_validate_json(trial["configuration"]), status, reason)
        [name] = [name for name, running in self.running.items() if running is trial]
        self.searcher.on_trial_complete(name, result={}, error=auc is None and reason is None)

    def states(self) -> list[str]:
        return [each.state for each in self.searcher.state.configurations]

    def proposed(self) -> list[str]:
        return [each.key for each in self.searcher.state.configurations]

    def told(self) -> list[tuple[TrialState, float | None]]:
        """What Optuna was told."""
        return [(trial.state, trial.value) for trial in optuna_trials(self.study, "study")]


def test_optuna_is_told_the_mean_over_the_folds_once_all_have_ended(tmp_path: Path) -> None:
    desk = Desk(tmp_path, TWO)
    trials = [desk.start() for _ in range(FOLDS)]
    assert len(desk.told()) == 1, "the next configuration is proposed only when a trial can start"
    trials += desk.start_all()
    assert [(trial["key"], trial["fold"]) for trial in trials] == [
        (key, fold) for key in desk.proposed() for fold in range(FOLDS)
    ]
    for trial, auc in zip(trials[:5], (0.5, 0.7, 0.9, 0.6, 0.6), strict=True):
        desk.end(trial, auc)
    assert desk.told() == [(TrialState.COMPLETE, pytest.approx(0.7)), (TrialState.RUNNING, None)]
    assert not desk.searcher.finished
    desk.end(trials[5], 0.9)
    assert desk.told()[1] == (TrialState.COMPLETE, pytest.approx(0.7))
    assert desk.searcher.finished


@pytest.mark.parametrize(("auc", "reason"), [(None, "the loss became nan"), (math.nan, None), (None, None)])
def test_a_failed_fold_fails_the_configuration_and_spares_its_waiting_folds(
    tmp_path: Path, auc: float | None, reason: str | None
) -> None:
    desk = Desk(tmp_path, TWO)
    first, second = desk.start(), desk.start()
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    desk.end(first, auc, reason)
    assert desk.told() == [(TrialState.RUNNING, None)]  # its second fold is still running
    desk.end(second, 0.9)
    assert desk.told() == [(TrialState.FAIL, None)]
    assert {trial["key"] for trial in desk.start_all()} == {desk.proposed()[1]}
    assert desk.states()[0] == "failed"
    assert desk.searcher.state.configurations[0].objective is None
    desk.searcher.explain(desk.proposed()[0], 0, "out of memory")
    has_record = auc is not None or reason is not None
    assert (desk.searcher.state.configurations[0].reasons("failed")[0] == "out of memory") != has_record


def test_only_trials_without_a_record_run_after_a_restart(tmp_path: Path) -> None:
    desk = Desk(tmp_path, TWO)
    trials = desk.start_all()
    for trial in trials[:4]:
        desk.end(trial, 0.8)
    desk.open()
    assert [(t["key"], t["fold"]) for t in desk.start_all()] == [(t["key"], t["fold"]) for t in trials[4:]]
    for trial in list(desk.running.values()):
        desk.end(trial, 0.6)
    assert desk.told() == [(TrialState.COMPLETE, pytest.approx(0.8)), (TrialState.COMPLETE, pytest.approx(2 / 3))]
    desk.open()
    assert desk.start() == Searcher.FINISHED
    assert desk.searcher.finished
    told = desk.told()
    desk.study.journal.unlink()  # records alone bring a study back
    desk.open()
    assert desk.start() == Searcher.FINISHED
    assert desk.told() == told


def test_a_training_that_failed_stays_failed_and_a_crash_gets_another_chance(tmp_path: Path) -> None:
    desk = Desk(tmp_path, TWO)
    trials = desk.start_all()
    for number, trial in enumerate(trials):
        desk.end(trial, *{0: (None, "the loss became nan"), 3: (None, None)}.get(number, (0.8, None)))
    desk.open()
    assert [(t["key"], t["fold"]) for t in desk.start_all()] == [(trials[3]["key"], 0)]
    assert len(desk.proposed()) == 2


def test_a_sampler_that_learns_chooses_once_all_trials_have_started(tmp_path: Path) -> None:
    space = {"sample": {"training.learning_rate": {"low": 1e-5, "high": 1e-2}}}
    desk = Desk(tmp_path / "random", space, configurations=4, sampler="random")
    assert len(desk.start_all()) == 4 * FOLDS, "what is drawn does not depend on other configurations"
    assert desk.start() == Searcher.FINISHED
    desk = Desk(tmp_path / "tpe", space, configurations=4, sampler="tpe")
    for configurations in range(1, 5):
        assert len(desk.start_all()) == FOLDS
        assert len(desk.proposed()) == configurations
        for number, name in enumerate(list(desk.running)[-FOLDS:]):
            assert configurations == 4 or desk.start() is None, f"{FOLDS - number} folds wait for room"
            desk.searcher.note_running(name, is_running=True)
    assert desk.start() == Searcher.FINISHED


def test_within_a_bracket_nothing_is_learned_and_all_can_start(tmp_path: Path) -> None:
    space = {"sample": {"training.learning_rate": {"low": 1e-5, "high": 1e-2}}}
    pruning = {"pruning": "halving", "bracket": 3, "first_folds": 2, "compare_within": []}
    desk = Desk(tmp_path, space, configurations=6, sampler="tpe", **pruning)
    assert len(desk.start_all()) == 3 * 2
    for name in desk.running:
        desk.searcher.note_running(name, is_running=True)
    assert len(desk.start_all()) == 3 * 2
    assert len(desk.proposed()) == 6
    assert desk.start() is None


def test_folds_that_tune_has_not_started_are_taken_back_if_another_fails(tmp_path: Path) -> None:
    desk = Desk(tmp_path, TWO)
    trials = desk.start_all()
    for name in list(desk.running)[:2]:
        desk.searcher.note_running(name, is_running=True)
    assert desk.take_back() == []
    desk.end(trials[0], None, "the loss became nan")
    assert desk.take_back() == [(trials[0]["key"], 2)], "fold 1 is being trained already"
    assert desk.told()[0] == (TrialState.RUNNING, None)
    desk.end(trials[1], 0.9)
    assert desk.told()[0] == (TrialState.FAIL, None)
    assert [trial.state for trial in desk.searcher.state.configurations[0].trials] == ["failed", "finished", "skipped"]
    for trial in trials[3:]:
        desk.end(trial, 0.9)
    assert desk.searcher.finished
    desk.open()
    assert desk.start() == Searcher.FINISHED


def test_duplicates_of_a_configuration_share_their_trials(tmp_path: Path) -> None:
    space = {"sample": {"model.modality": {"choices": ["NCCT", "CTA"]}}}
    desk = Desk(tmp_path, space, configurations=8, sampler="random")
    trials = desk.start_all()
    assert len(trials) == 2 * FOLDS
    assert len(desk.told()) == 8
    for trial in trials:
        desk.end(trial, 0.5 + trial["fold"] / 10)
    assert desk.told() == [(TrialState.COMPLETE, pytest.approx(0.6))] * 8
    assert len(desk.proposed()) == 2


def test_a_damaged_record_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path, TWO)
    monkeypatch.setattr(desk, "record", Mock(side_effect=RlvoError("altered since it was written")))
    with pytest.raises(RlvoError, match="altered"):
        desk.start()


def test_optuna_gets_the_mean_over_the_folds_of_every_epoch_that_all_folds_have_trained(tmp_path: Path) -> None:
    desk = Desk(tmp_path, ONE)
    trials = desk.start_all()
    rising = [{"val/loss": 0.5, "val/auc": 0.6}, {"val/loss": 0.4, "val/auc": 0.7}, {"val/loss": 0.45, "val/auc": 0.9}]
    for trial, length in zip(trials, (3, 2, 3), strict=True):
        desk.history[trial["key"], trial["fold"]] = rising[:length]
        desk.searcher.on_trial_result(f"trial-{trial['fold']}", {})
        seen = optuna_trials(desk.study, "study")[0].intermediate_values
        assert seen == ({} if trial["fold"] < 2 else {1: pytest.approx(0.6), 2: pytest.approx(0.7)})
    desk.history[trials[1]["key"], 1] = rising
    desk.open()  # a new process knows the epochs from disk, and the best epoch is the one with the lowest loss
    assert optuna_trials(desk.study, "study")[0].intermediate_values[3] == pytest.approx(0.7)


def test_a_report_of_many_epochs_hands_optuna_a_few_means_and_the_others_follow_when_the_trial_ends(
    tmp_path: Path,
) -> None:
    """Each mean is written to disk, and meanwhile no other trial is answered."""
    desk = Desk(tmp_path, ONE)
    trials = desk.start_all()
    epochs = [{"val/loss": 1 / epoch, "val/auc": epoch / 100} for epoch in range(1, 21)]
    for trial in trials:
        desk.history[trial["key"], trial["fold"]] = epochs
        desk.searcher.on_trial_result(f"trial-{trial['fold']}", {})
    few = optuna_trials(desk.study, "study")[0].intermediate_values
    assert few == {epoch: pytest.approx(epoch / 100) for epoch in range(1, MEANS_OF_RESULT + 1)}
    desk.searcher.on_trial_complete("trial-0", {"reason": "it failed"})
    all_of_them = optuna_trials(desk.study, "study")[0].intermediate_values
    assert all_of_them == {epoch: pytest.approx(epoch / 100) for epoch in range(1, 21)}


def test_those_who_watch_see_what_runs_what_waits_and_how_far_it_is(tmp_path: Path) -> None:
    desk = Desk(tmp_path, ONE)
    trial = desk.start()
    assert isinstance(trial, dict)
    assert [each.state for each in desk.searcher.state.configurations[0].trials] == ["waiting"] * 3
    desk.searcher.note_running("trial-0", is_running=True)
    desk.history[trial["key"], 0] = [{"val/loss": 0.5, "val/auc": 0.6}]
    desk.searcher.on_trial_result("trial-0", {})
    running = desk.searcher.state.configurations[0].trials[0]
    assert (running.state, running.epoch, running.auc) == ("running", 1, 0.6)
    desk.searcher.note_running("trial-0", is_running=False)  # its process died, and it waits to start again
    assert desk.states() == ["waiting"]
    desk.searcher.note_running("a trial that has ended", is_running=True)


@pytest.mark.parametrize("pruning", [{}, PRUNING])
def test_the_key_of_a_configuration_is_computed_once(
    pruning: dict[str, Any], quick_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, trials, study = planted_study(configurations=12, **pruning), PlantedTrials(0), StudyFolder(quick_folder)
    hashes = Mock(wraps=model.content_hash)
    monkeypatch.setattr(model, "content_hash", hashes)
    state = search(config, trials, study, workers=3)
    assert hashes.call_count == len(state.configurations) == 12
    search(config, trials, study)
    assert hashes.call_count == 24, "another process computes each once more"


def test_a_configuration_pruned_after_all_epochs_of_the_first_folds_is_known_from_disk_alone(tmp_path: Path) -> None:
    pruning = {"pruning": "halving", "min_epochs": 1, "first_folds": 1}
    space = {"enumerate": {"training.learning_rate": [1e-3, 1e-2]}}
    content = {"name": "s", "space": space, "search": pruning, "folds": {"folds": 2}, "training": {"epochs": 1}}
    disk = StudyOnDisk(tmp_path, parse_study(content))
    better, worse = (disk.config.configuration(values) for values in disk.config.grid_points())
    for configuration, auc in ((better, 0.8), (worse, 0.7)):
        disk.end(configuration, 0, [{"train/loss": 0.5, "val/loss": 0.5, "val/auc": auc}])

    def open_search() -> FoldSearcher:
        return FoldSearcher(disk.config, Proposals(disk.config, disk.folder), TrialStore(disk.folder, disk.identity))

    searcher = open_search()
    assert searcher.fill()
    assert searcher.suggest("t0") == {
        "key": better.key, "fold": 1, "until": 1, "configuration": better.model_dump_json()
    }  # fmt: skip
    states = {each.key: [trial.state for trial in each.trials] for each in read_state(disk.folder).configurations}
    assert states == {better.key: ["finished", "waiting"], worse.key: ["finished", "pruned"]}

    disk.folder.journal.unlink()
    again = open_search()
    again.fill()
    assert [each.state for each in again.state.configurations] == ["waiting", "pruned"]
    assert "1 of 2 configurations" in again.state.configurations[1].reasons("pruned")[1]
