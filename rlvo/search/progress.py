"""Where a search stands, told from inside Tune's loop: to its terminal, and by a note to whoever watches the folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.exceptions import RayTaskError
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback

from rlvo.config.model import Configuration
from rlvo.search.results import best_result
from rlvo.search.searcher import FoldSearcher
from rlvo.search.status import Note, write_note
from rlvo.training.records import OBJECTIVE, OUT_OF_MEMORY

INTERVAL = 1.0
NOTE_INTERVAL = 10.0
"""Seconds between two notes that say the same."""


@dataclass(frozen=True)
class RunningTrial:
    """A trial under way; `epoch` 0 until its first epoch has ended."""

    label: str
    fold: int
    epoch: int
    epochs: int
    auc: float | None


@dataclass(frozen=True)
class SearchProgress:
    """A study at one moment. Trials that are not started because a sibling failed count as failed."""

    configurations_total: int
    trials_total: int
    trials_done: int
    trials_failed: int
    trials_pruned: int = 0
    """Those that did not finish; a failed configuration's count as failed."""
    running: tuple[RunningTrial, ...] = ()
    best_label: str | None = None
    best_auc: float | None = None


OnProgress = Callable[[SearchProgress], None]


class ProgressCallback(TrialProgressCallback):
    """Calls `on_progress` at every result, and at least every second; tells the searcher why a trial crashed.

    Takes the place of Tune's own callback, which prints every trial.

    Args:
        searcher: knows how the configurations do.
        configurations: how many there will be.
        folds: how many trials each has.
        on_progress: is told.
        folder: the study folder, for the note; None: no note.
    """

    def __init__(
        self,
        searcher: FoldSearcher,
        configurations: int,
        folds: int,
        on_progress: OnProgress,
        folder: Path | None = None,
    ) -> None:
        super().__init__()
        self._searcher, self._configurations, self._folds = searcher, configurations, folds
        self._on_progress, self._told = on_progress, 0.0
        self._folder, self._note, self._noted = folder, Note(), -NOTE_INTERVAL

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if time.monotonic() - self._told >= INTERVAL:
            self.tell(trials)

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict, **info: Any) -> None:
        self.tell(trials)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.tell(trials)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._searcher.explain(trial.config["key"], trial.config["fold"], _reason(trial))
        self.tell(trials)

    def tell(self, trials: list[Trial]) -> None:
        results = self._searcher.results
        leader = best_result(results)
        running = [
            trial for trial in trials if trial.status == Trial.RUNNING and self._searcher.is_running(trial.trial_id)
        ]
        self._told = time.monotonic()
        self._on_progress(
            SearchProgress(
                configurations_total=self._configurations,
                trials_total=self._configurations * self._folds,
                trials_done=sum(len(result.records) for result in results),
                trials_failed=sum(self._folds - len(result.records) for result in results if result.failures),
                trials_pruned=sum(len(result.prunings) for result in results if not result.failures),
                running=tuple(_running(trial) for trial in running),
                best_label=leader.configuration.label if leader else None,
                best_auc=leader.auc if leader else None,
            )
        )
        if self._folder is not None:
            self._write_note(self._folder, running)

    def _write_note(self, folder: Path, running: list[Trial]) -> None:
        results = self._searcher.results
        note = Note(
            running=frozenset((trial.config["key"], trial.config["fold"]) for trial in running),
            failures={result.configuration.key: result.failures for result in results if result.failures},
            prunings={result.configuration.key: result.prunings for result in results if result.prunings},
            has_finished=self._searcher.finished,
        )
        if note != self._note or time.monotonic() - self._noted >= NOTE_INTERVAL:
            write_note(folder, note)
            self._note, self._noted = note, time.monotonic()


def _running(trial: Trial) -> RunningTrial:
    configuration = Configuration.model_validate_json(trial.config["configuration"])
    last = trial.last_result
    return RunningTrial(
        configuration.label,
        trial.config["fold"],
        last.get("epoch", 0),
        configuration.training.epochs,
        last.get(OBJECTIVE),
    )


def _reason(trial: Trial) -> str:
    """One line: what the trial raised, or how its process died. Tune's own readers look where the files come later."""
    said = Path(trial.error_file).read_text().rpartition("Failure #")[2]
    if "running low on memory" in said:
        return f"out of memory: Ray ended its process. {OUT_OF_MEMORY}"
    if (raised := Path(trial.pickled_error_file)).exists():
        error = cloudpickle.loads(raised.read_bytes())
        if isinstance(error, RayTaskError):
            return f"{type(error.cause).__name__}: {' '.join(str(error.cause).split())}"
    return "its process died, often for lack of memory"
