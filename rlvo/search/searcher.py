"""The fold-aware searcher: Optuna sees one trial a configuration, Tune one trial a configuration × fold."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from optuna.trial import TrialState
from ray.tune.search import Searcher

from rlvo.config.model import Configuration
from rlvo.errors import RlvoError
from rlvo.search.proposals import Proposal, Proposals
from rlvo.search.results import OBJECTIVE, ConfigurationResult
from rlvo.training.records import CompletionRecord

ReadRecord = Callable[[Configuration, int], CompletionRecord | None]
"""The completion record of this study's trial of a configuration on a fold; None where it has not ended."""


class FoldSearcher(Searcher):
    """Hands Tune the folds of the configurations Optuna proposes, and tells Optuna how all of them did.

    A configuration's objective is the mean over its folds. A fold that fails fails it: its waiting folds are not
    started, and Optuna is told FAIL, never the mean of the rest. Trials with a completion record are not run again;
    duplicates of a configuration share their trials.

    Args:
        proposals: Optuna's side.
        folds: how many folds a configuration is trained on.
        read_record: looks up completion records; raises RlvoError for a damaged one.
    """

    def __init__(self, proposals: Proposals, folds: int, read_record: ReadRecord) -> None:
        super().__init__()
        self._proposals, self._folds, self._read_record = proposals, folds, read_record
        self._taken: list[Proposal] = []
        self._untold: list[Proposal] = []
        self._results: dict[str, ConfigurationResult] = {}
        self._waiting: deque[tuple[str, int]] = deque()
        self._running: dict[str, tuple[str, int]] = {}
        for proposal in proposals.earlier():
            if self._goes_on(proposal):
                self._take(proposal)

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
        return bool(self._waiting)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial for Tune: `configuration` (JSON), its `key`, and the `fold`."""
        if not self.fill():
            return str(Searcher.FINISHED)
        key, fold = self._waiting.popleft()
        self._running[trial_id] = key, fold
        return {"key": key, "fold": fold, "configuration": self._results[key].configuration.model_dump_json()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Note how a fold ended, from its completion record."""
        key, fold = self._running.pop(trial_id)
        reason = (result or {}).get("reason") or ("its process died" if error else "it left no completion record")
        try:
            record = self._read_record(self._results[key].configuration, fold)
        except RlvoError as damaged:
            record, reason = None, str(damaged)
        if record is None:
            self._fail(key, fold, reason)
        else:
            self._note(key, fold, record)
        self._tell_if_ended(key)

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
        records = (self._read_record(proposal.configuration, fold) for fold in range(self._folds))
        return any(record is not None and record.status == "failed" for record in records)

    def _take(self, proposal: Proposal) -> None:
        configuration = proposal.configuration
        self._taken.append(proposal)
        if proposal.state == TrialState.RUNNING:
            self._untold.append(proposal)
        if configuration.key not in self._results:
            self._results[configuration.key] = ConfigurationResult(configuration, self._folds)
            records = {fold: self._read_record(configuration, fold) for fold in range(self._folds)}
            self._waiting.extend((configuration.key, fold) for fold, record in records.items() if record is None)
            for fold, record in records.items():
                if record is not None:
                    self._note(configuration.key, fold, record)
        self._tell_if_ended(configuration.key)

    def _note(self, key: str, fold: int, record: CompletionRecord) -> None:
        if record.status == "failed":
            self._fail(key, fold, record.reason or "training failed")
        elif not math.isfinite(record.metrics.get(OBJECTIVE, math.nan)):
            self._fail(key, fold, f"{OBJECTIVE} is undefined at the best checkpoint")
        else:
            self._results[key].records[fold] = record

    def _fail(self, key: str, fold: int, reason: str) -> None:
        self._results[key].failures[fold] = reason
        self._waiting = deque(trial for trial in self._waiting if trial[0] != key)

    def _tell_if_ended(self, key: str) -> None:
        if any(trial[0] == key for trial in (*self._waiting, *self._running.values())):
            return
        for proposal in [proposal for proposal in self._untold if proposal.configuration.key == key]:
            self._proposals.tell(proposal, self._results[key].auc)
            self._untold.remove(proposal)
