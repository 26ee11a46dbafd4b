"""What the control plane does once is counted, not timed: it must not grow with the trials that have ended."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from types import FrameType
from typing import Any

import pytest
from support.file_calls import count_calls
from support.planted import PlantedTrials, planted_study, search

from benchmarks import scale
from benchmarks.scale import FOLDS, SPECS, HeldInMemory, Planted
from benchmarks.search import EVENTS, HALVING
from rlvo.search.forecast import read_forecast
from rlvo.search.searcher import FoldSearcher
from rlvo.study.folder import StudyFolder
from rlvo.tracking import trial_files

FEW, MANY = 50, 500
"""Trials."""


def count_functions(work: Callable[[], object]) -> int:
    """How many functions of Python `work` calls in this thread."""
    called = 0

    def count(frame: FrameType, event: str, what: Any) -> None:
        nonlocal called
        called += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return called


@dataclass(frozen=True)
class Counted:
    """Calls to the file system, and of functions of Python."""

    files: int
    functions: int

    @classmethod
    def of(cls, work: Callable[[], object]) -> "Counted":
        return cls(count_calls(work), count_functions(work))


@pytest.fixture(scope="module")
def planted() -> Iterator[dict[int, Planted]]:
    """Studies of which all trials have ended, by how many."""
    with pytest.MonkeyPatch.context() as patch, scale.in_memory() as folder:
        patch.setattr(scale, "WEIGHTS_BYTES", 100)
        patch.setattr(scale, "EPOCHS_PER_TRIAL", 3)
        patch.setattr(scale, "PATIENTS_PER_FOLD", 4)
        for size in (FEW, MANY):
            (folder / str(size)).mkdir()
        yield {size: Planted(folder / str(size), size) for size in (FEW, MANY)}


def test_a_sync_of_what_has_ended_looks_at_as_much_however_much_that_is(
    planted: dict[int, Planted], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trial_files, "AGAIN", 10)
    counted = {}
    for size, study in planted.items():
        mirror = study.mirror(HeldInMemory(tmp_path / str(size)))
        with scale.without_files():
            mirror.sync()
            counted[size] = Counted.of(mirror.sync)
    assert counted[FEW].files == counted[MANY].files
    assert counted[MANY].functions - counted[FEW].functions < 10 * (MANY - FEW)


def test_the_status_of_a_study_reads_each_trial_in_a_few_calls(planted: dict[int, Planted]) -> None:
    few, many = (Counted.of(partial(read_forecast, study.study)) for study in planted.values())
    assert many.files - few.files <= 5 * (MANY - FEW)
    assert many.functions - few.functions <= 100 * (MANY - FEW)


def test_an_event_of_the_searcher_does_as_much_however_many_trials_have_ended(quick_folder: Path) -> None:
    """The later half of a search's events; those of 120 configurations sort a little more."""
    means = {}
    for size in (FEW, MANY):
        called = list[int]()

        class Watched(FoldSearcher):
            def __getattribute__(self, name: str, called: list[int] = called) -> Any:
                found = super().__getattribute__(name)
                if name not in EVENTS:
                    return found

                def counted(*arguments: Any) -> Any:
                    answers = list[Any]()
                    called.append(count_functions(lambda: answers.append(found(*arguments))))
                    return answers[0]

                return counted

        rates = [1e-5 * 1.01**number for number in range(-(-size // FOLDS // 24))]  # 24 and 120 configurations
        space = {"enumerate": SPECS | {"training.learning_rate": rates}}
        study = planted_study(space, **HALVING, first_folds=1)
        search(study, PlantedTrials(0), StudyFolder(quick_folder / str(size)), workers=4, searcher=Watched)
        means[size] = fmean(called[len(called) // 2 :])
    assert means[MANY] < 1.2 * means[FEW]
