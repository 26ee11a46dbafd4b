"""The fold-aware searcher: Optuna sees one trial a configuration, Tune one trial a configuration × fold."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from optuna.trial import TrialState
from ray.tune.search import Searcher

from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError
from rlvo.search.halving import Climber, Rung, group, judge, ladder, objective_at
from rlvo.search.proposals import Proposal, Proposals
from rlvo.search.results import ConfigurationResult
from rlvo.training.records import OBJECTIVE, CompletionRecord, EpochMetrics


class Trials(Protocol):
    """What the trials of a study left on disk."""

    def record(self, configuration: Configuration, fold: int) -> CompletionRecord | None:
        """The completion record; None where the trial has not ended. Raises RlvoError for a damaged one."""

    def epochs(self, configuration: Configuration, fold: int) -> Sequence[EpochMetrics]:
        """The metrics of every epoch so far."""

    def prune(self, configuration: Configuration, fold: int, reason: str) -> None:
        """End a trial where it stands, with a record that says it was pruned. Raises RlvoError where it is damaged."""


class FoldSearcher(Searcher):
    """Hands Tune the folds of the configurations Optuna proposes, and tells Optuna how all of them did.

    A configuration's objective is the mean over its folds. A fold that fails fails it: its waiting folds are not
    started, and Optuna is told FAIL, never the mean of the rest. Trials with a completion record are not run again;
    duplicates of a configuration share their trials. With pruning a trial is run in parts, one a rung of the ladder.

    Args:
        study: how many folds there are, and how configurations are pruned.
        proposals: Optuna's side.
        trials: what lies on disk.
    """

    def __init__(self, study: StudyConfig, proposals: Proposals, trials: Trials) -> None:
        super().__init__()
        self._proposals, self._trials, self._folds = proposals, trials, study.folds.folds
        self._search = study.search
        self._rungs = ladder(study.search, study.folds.folds, study.training.epochs)
        self._taken: list[Proposal] = []
        self._untold: list[Proposal] = []
        self._results: dict[str, ConfigurationResult] = {}
        self._number: dict[str, int] = {}
        self._epochs: dict[str, dict[int, Sequence[EpochMetrics]]] = {}
        self._passed: dict[str, int] = {}
        self._rung: dict[str, int] = {}
        self._waiting: deque[tuple[str, int]] = deque()
        self._running: dict[str, tuple[str, int]] = {}
        for proposal in proposals.earlier():
            if self._goes_on(proposal):
                self._take(proposal)
        self._judge()

    @property
    def results(self) -> tuple[ConfigurationResult, ...]:
        """Every configuration so far, in the order of the proposals."""
        return tuple(self._results.values())

    @property
    def finished(self) -> bool:
        """Whether every configuration was proposed and every fold has ended."""
        return len(self._taken) >= self._proposals.budget and not self._waiting and not self._running

    def is_running(self, trial_id: str) -> bool:
        """Whether Tune has this trial and has not said yet how it ended."""
        return trial_id in self._running

    def fill(self) -> bool:
        """Propose until a trial waits to be started. False: there is nothing left to start."""
        while not self._waiting and len(self._taken) < self._proposals.budget:
            self._take(self._proposals.propose(self._taken))
            self._judge()
        return bool(self._waiting)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial for Tune: `configuration` (JSON), its `key`, the `fold`, and `until`, the epoch to stop after.

        None while what goes on next depends on trials that are running.
        """
        if not self.fill():
            return None if self._running and len(self._rungs) > 1 else str(Searcher.FINISHED)
        key, fold = self._waiting.popleft()
        self._running[trial_id] = key, fold
        configuration = self._results[key].configuration.model_dump_json()
        return {"key": key, "fold": fold, "until": self._rungs[self._rung[key]].epochs, "configuration": configuration}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Hand Optuna the mean over folds of the epochs that all folds have come to."""
        if trial_id in self._running:
            self._read_epochs(*self._running[trial_id])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note how a fold ended, from its completion record."""
        key, fold = self._running.pop(trial_id)
        reason = (result or {}).get("reason") or ("its process died" if error else "it left no completion record")
        try:
            record = self._trials.record(self._results[key].configuration, fold)
        except RlvoError as damaged:
            record, error, reason = None, True, str(damaged)
        self._read_epochs(key, fold)
        if record is not None:
            self._note(key, fold, record)
        elif error or "reason" in (result or {}) or not self._is_there(key, fold):
            self._fail(key, fold, reason)
        self._tell_if_ended(key)
        self._judge()

    def explain(self, key: str, fold: int, reason: str) -> None:
        """Say more precisely why a fold failed."""
        self._results[key].failures[fold] = reason

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal and the completion records are the state."""

    def _goes_on(self, proposal: Proposal) -> bool:
        """Not so where it failed without a record (a process died, data could not be read): that is worth another try,
        so its combination is dealt again."""
        if proposal.state != TrialState.FAIL:
            return True
        records = (self._trials.record(proposal.configuration, fold) for fold in range(self._folds))
        return any(record is not None and record.status == "failed" for record in records)

    def _take(self, proposal: Proposal) -> None:
        configuration = proposal.configuration
        self._taken.append(proposal)
        if proposal.state == TrialState.RUNNING:
            self._untold.append(proposal)
        if configuration.key not in self._results:
            self._number[configuration.key] = proposal.number
            self._begin(configuration, is_pruned=proposal.state == TrialState.PRUNED)
        self._tell_if_ended(configuration.key)

    def _begin(self, configuration: Configuration, *, is_pruned: bool) -> None:
        key, folds = configuration.key, range(self._folds)
        result = self._results[key] = ConfigurationResult(configuration, self._folds)
        self._epochs[key] = {fold: self._trials.epochs(configuration, fold) for fold in folds}
        self._passed[key] = sum(
            any(
                epochs and (fold >= rung.folds or len(epochs) > rung.epochs)
                for fold, epochs in self._epochs[key].items()
            )
            for rung in self._rungs[:-1]
        )
        self._rung[key] = -1
        records = {fold: self._trials.record(configuration, fold) for fold in folds}
        for fold, record in records.items():
            if record is not None:
                self._note(key, fold, record)
        if is_pruned or result.prunings:  # its process may have died while it was being pruned
            self._prune(key, next(iter(result.prunings.values()), "pruned"))
        self._aim(key, 0)
        self._report(key)

    def _aim(self, key: str, rung: int) -> None:
        """Let a configuration train for a rung."""
        self._rung[key], self._passed[key] = rung, max(rung, self._passed[key])
        if self._results[key].state == "unfinished":
            self._waiting.extend(
                (key, fold) for fold in range(self._rungs[rung].folds) if not self._is_there(key, fold)
            )

    def _is_there(self, key: str, fold: int) -> bool:
        """Whether a fold has trained as far as its configuration's rung; at the last one, whether it has a record."""
        rung = self._rung[key]
        if fold in self._results[key].records:
            return True
        return rung < len(self._rungs) - 1 and len(self._epochs[key][fold]) >= self._rungs[rung].epochs

    def _judge(self) -> None:
        """Let go on and prune what can be told now."""
        for keys in self._brackets():
            verdicts = judge([self._climber(key) for key in keys], self._rungs, self._search.reduction_factor)
            for key, verdict in verdicts.items():
                if self._results[key].state != "unfinished":
                    continue
                if verdict.pruned:
                    self._prune(key, verdict.pruned)
                elif verdict.rung > self._rung[key]:
                    self._aim(key, verdict.rung)

    def _brackets(self) -> list[list[str]]:
        """Configurations that are compared with one another, of the brackets that are complete."""
        if len(self._rungs) == 1 or not self._taken:
            return []
        size = self._search.bracket or sys.maxsize
        complete = (self._taken[-1].number + 1) // size
        is_spent = len(self._taken) >= self._proposals.budget
        brackets: dict[tuple[object, ...], list[str]] = {}
        for key, result in self._results.items():
            bracket = self._number[key] // size
            if bracket < complete or is_spent:
                compared = bracket, *group(result.configuration, self._search.compare_within)
                brackets.setdefault(compared, []).append(key)
        return list(brackets.values())

    def _climber(self, key: str) -> Climber:
        values = [objective_at(rung, self._epochs[key]) for rung in self._rungs[:-1]]
        there = tuple(value for value in values if value is not None)
        if any(trial[0] == key for trial in self._running.values()):
            there = there[: self._rung[key]]  # it arrives once Tune has let go of all its trials
        result = self._results[key]
        return Climber(key, there, self._passed[key], result.state in ("failed", "pruned"), bool(result.prunings))

    def _prune(self, key: str, reason: str) -> None:
        result = self._results[key]
        for fold in range(self._folds):
            if fold in result.records or fold in result.prunings:
                continue
            try:
                if self._epochs[key][fold] or not result.prunings:  # one record at least says it, whatever dies
                    self._trials.prune(result.configuration, fold, reason)
                result.prunings[fold] = reason
            except RlvoError as damaged:
                self._fail(key, fold, str(damaged))
        self._tell_if_ended(key)

    def _read_epochs(self, key: str, fold: int) -> None:
        self._epochs[key][fold] = self._trials.epochs(self._results[key].configuration, fold)
        self._report(key)

    def _report(self, key: str) -> None:
        epochs = self._epochs[key]
        folds = self._rungs[self._rung[key]].folds
        means = {
            epoch: mean
            for epoch in range(1, min(len(epochs[fold]) for fold in range(folds)) + 1)
            if (mean := objective_at(Rung(folds, epoch), epochs)) is not None and math.isfinite(mean)
        }
        for proposal in self._untold:
            if proposal.configuration.key == key:
                self._proposals.report(proposal, means)

    def _note(self, key: str, fold: int, record: CompletionRecord) -> None:
        if record.status == "failed":
            self._fail(key, fold, record.reason or "training failed")
        elif record.status == "pruned":
            self._results[key].prunings[fold] = record.reason or "pruned"
        elif not math.isfinite(record.metrics.get(OBJECTIVE, math.nan)):
            self._fail(key, fold, f"{OBJECTIVE} is undefined at the best checkpoint")
        else:
            self._results[key].records[fold] = record

    def _fail(self, key: str, fold: int, reason: str) -> None:
        self._results[key].failures[fold] = reason
        self._waiting = deque(trial for trial in self._waiting if trial[0] != key)

    def _tell_if_ended(self, key: str) -> None:
        result = self._results[key]
        if result.state == "unfinished" or any(trial[0] == key for trial in (*self._waiting, *self._running.values())):
            return
        for proposal in [proposal for proposal in self._untold if proposal.configuration.key == key]:
            self._proposals.tell(proposal, result.auc, pruned=result.state == "pruned")
            self._untold.remove(proposal)
