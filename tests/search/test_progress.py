"""What a search tells its terminal, and by its note whoever looks at the folder; the trials end by hand here."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.tune.experiment import Trial

from rlvo.config.loading import parse_study
from rlvo.config.model import Configuration
from rlvo.files import atomic_write
from rlvo.search.progress import ProgressCallback, SearchProgress
from rlvo.search.proposals import Proposals
from rlvo.search.searcher import FoldSearcher
from rlvo.search.status import NOTE, study_status
from rlvo.training.records import CompletionRecord, EpochMetrics

STUDY = parse_study(
    {"name": "study", "space": {"enumerate": {"model.modality": ["NCCT", "CTA"]}}, "folds": {"folds": 2}}
)


class NoTrials:
    """Nothing was ever left on disk."""

    def record(self, configuration: Configuration, fold: int) -> CompletionRecord | None:
        return None

    def epochs(self, configuration: Configuration, fold: int) -> list[EpochMetrics]:
        return []

    def prune(self, configuration: Configuration, fold: int, reason: str) -> None:
        raise AssertionError("nothing is pruned here")


class Search:
    """A search whose trials do what the test says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.told = folder, list[SearchProgress]()
        atomic_write(folder / "study.json", STUDY.model_dump_json())
        self.searcher = FoldSearcher(STUDY, Proposals(STUDY, folder), NoTrials())
        self.callback = ProgressCallback(self.searcher, 2, 2, self.told.append, folder)
        self.trials: list[Trial] = []

    def start(self) -> Trial:
        trial_id = f"t{len(self.trials)}"
        config = self.searcher.suggest(trial_id)
        assert isinstance(config, dict)
        trial = Trial("train_fold", trial_id=trial_id, config=config, stub=True)
        trial.set_status(Trial.RUNNING)
        (self.folder / "trials" / config["key"] / f"fold-{config['fold']}").mkdir(parents=True)
        atomic_write(self.folder / "trials" / config["key"] / "configuration.json", config["configuration"])
        self.trials.append(trial)
        return trial

    def fail(self, trial: Trial, reason: str) -> None:
        trial.set_status(Trial.TERMINATED)
        self.searcher.on_trial_complete(trial.trial_id, {"reason": reason})
        self.callback.on_trial_complete(0, self.trials, trial)

    def states(self) -> list[list[str]]:
        return [[trial.state for trial in each.trials] for each in study_status(self.folder).configurations]


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(tmp_path)


def test_a_failure_without_a_record_is_told_to_the_folder(search: Search) -> None:
    first = search.start()
    search.callback.tell(search.trials)
    assert search.states() == [["running", "waiting"]]
    assert [(trial.fold, trial.epoch, trial.epochs) for trial in search.told[-1].running] == [(0, 0, 60)]

    search.fail(first, "no volume of planted-001")
    assert search.states() == [["failed", "skipped"]]
    status = study_status(search.folder)
    assert status.configurations[0].trials[0].reason == "no volume of planted-001"
    assert not status.is_complete
    assert (search.told[-1].trials_failed, search.told[-1].trials_total) == (2, 4)

    search.fail(search.start(), "no volume of planted-002")
    assert study_status(search.folder).is_complete


def test_another_start_forgets_failures_that_are_tried_again(search: Search) -> None:
    search.fail(search.start(), "no volume of planted-001")
    again = Search(search.folder)
    again.callback.tell([])
    assert again.states() == [["waiting", "waiting"]]


def test_the_same_is_not_written_again_at_once(search: Search) -> None:
    search.callback.tell([])
    written = (search.folder / NOTE).stat().st_mtime_ns
    search.callback.tell([])
    assert (search.folder / NOTE).stat().st_mtime_ns == written
    assert len(search.told) == 2


def test_without_a_folder_there_is_no_note(search: Search) -> None:
    ProgressCallback(search.searcher, 2, 2, search.told.append).tell([])
    assert not (search.folder / NOTE).exists()
