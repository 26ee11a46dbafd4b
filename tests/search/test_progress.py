"""What a search says while it runs, to its caller and, by its note, to those who watch; why a trial died."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.experiment import Trial
from ray.tune.utils.callback import _create_default_callbacks

from rlvo.config.loading import parse_study
from rlvo.config.model import Configuration
from rlvo.errors import DiskFullError
from rlvo.files import atomic_write
from rlvo.search.execute import TuneEvents, crash_reason
from rlvo.search.proposals import Proposals
from rlvo.search.searcher import FoldSearcher
from rlvo.search.trainable import STOPS
from rlvo.study.folder import StudyFolder, write_configuration
from rlvo.study.state import StudyState
from rlvo.study.status import read_state
from rlvo.training.records import CompletionRecord, EpochMetrics

STUDY = parse_study(
    {"name": "study", "space": {"enumerate": {"model.modality": ["NCCT", "CTA"]}}, "folds": {"folds": 2}}
)


class NoTrials:
    """Nothing was ever left on disk."""

    def record(self, key: str, fold: int) -> CompletionRecord | None:
        return None

    def epochs(self, key: str, fold: int) -> Sequence[EpochMetrics]:
        return []

    def prune(self, key: str, fold: int, configuration: Configuration, reason: str) -> None:
        raise AssertionError("nothing is pruned here")


class Search:
    """A search whose trials do what the test says."""

    def __init__(self, study: StudyFolder) -> None:
        self.study, self.told = study, list[StudyState]()
        atomic_write(study.config, STUDY.model_dump_json())
        self.searcher = FoldSearcher(STUDY, Proposals(STUDY, study), NoTrials())
        self.events = TuneEvents(self.searcher, study, self.told.append)
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


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(StudyFolder(tmp_path))


def test_a_failure_without_a_record_is_noted_in_the_folder(search: Search) -> None:
    first = search.start()
    search.events.tell(search.trials)
    assert search.states() == [["running", "waiting"]]
    running = search.told[-1].configurations[0]
    assert [(trial.fold, trial.state, trial.epoch) for trial in running.trials] == [
        (0, "running", 0),
        (1, "waiting", 0),
    ]
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


def test_an_error_that_every_trial_would_meet_ends_the_search(search: Search) -> None:
    trial = search.start()
    with pytest.raises(DiskFullError, match="the disk is full"):
        search.events.on_trial_result(0, [trial], trial, {STOPS: DiskFullError("the disk is full")})


def test_tune_adds_no_callback_that_prints(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    assert _create_default_callbacks([search.events]) == [search.events]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RayTaskError("train_fold", "a traceback", ValueError("no\n such  thing")), "ValueError: no such thing"),
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
    assert crash_reason(trial).startswith(reason)
