"""A configuration in the search: one record of what its trials have done, how far it has climbed, and who waits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlvo.config.model import Configuration
from rlvo.search.halving import Rung, objective_at, objective_curve
from rlvo.search.proposals import Proposal
from rlvo.study.state import ConfigurationState, State, TrialState, trial_state
from rlvo.training.records import CompletionRecord, EpochMetrics


class Trials(Protocol):
    """What the trials of a study left on disk, by the configuration's key and the fold."""

    def record(self, key: str, fold: int) -> CompletionRecord | None:
        """The completion record; None if the trial has not ended. Raises RlvoError if the record is damaged."""

    def epochs(self, key: str, fold: int) -> Sequence[EpochMetrics]:
        """The metrics of every epoch so far."""

    def prune(self, key: str, fold: int, configuration: Configuration, reason: str) -> None:
        """End a trial at its last checkpoint, with a record of why. Raises RlvoError if the checkpoint is damaged."""


@dataclass(eq=False)
class Contender:
    """A configuration in the search."""

    key: str
    configuration: Configuration
    rungs: Sequence[Rung]
    bracket: tuple[int, tuple[object, ...]]
    """Identifies those it is compared with."""
    trials: list[TrialState]
    """By fold."""
    epochs: list[Sequence[EpochMetrics]]
    """By fold, the metrics of every epoch so far."""
    rung: int = -1
    """The rung it trains for; −1 until it has been taken up from disk."""
    passed: int = 0
    """How many rungs it was let past already."""
    waiting: list[int] = field(default_factory=list)
    """Folds to hand to Tune, the next one first."""
    running: set[int] = field(default_factory=set)
    """Folds that Tune has, and has not yet said how they ended."""
    untold: list[Proposal] = field(default_factory=list)
    """Proposals of this configuration whose objective Optuna is still to be told."""
    _state: ConfigurationState | None = None

    @classmethod
    def of(
        cls, proposal: Proposal, rungs: Sequence[Rung], bracket: tuple[int, tuple[object, ...]], trials: Trials
    ) -> Contender:
        """The configuration of a proposal, as far as its epochs on disk tell."""
        folds = range(rungs[-1].folds)
        epochs = [trials.epochs(proposal.key, fold) for fold in folds]
        passed = sum(
            any(e and (fold >= rung.folds or len(e) > rung.epochs) for fold, e in enumerate(epochs))
            for rung in rungs[:-1]
        )
        states = [trial_state(fold, None, epochs[fold]) for fold in folds]
        return cls(proposal.key, proposal.configuration, rungs, bracket, states, epochs, passed=passed)

    def note(
        self,
        fold: int,
        record: CompletionRecord | None = None,
        *,
        failure: str | None = None,
        pruning: str | None = None,
        unended: State = "waiting",
    ) -> None:
        """Note what has become of a trial; the arguments are those of `trial_state`."""
        self._state, epochs = None, self.epochs[fold]
        self.trials[fold] = trial_state(fold, record, epochs, failure=failure, pruning=pruning, unended=unended)

    @property
    def state(self) -> ConfigurationState:
        """Its state and those of its trials."""
        if self._state is None:
            self._state = ConfigurationState.of(self.key, self.configuration, self.trials)
        return self._state

    @property
    def is_open(self) -> bool:
        """Whether it has neither finished nor failed, and was not pruned."""
        return self.state.state in ("running", "waiting")

    @property
    def has_ended(self) -> bool:
        """Whether it was pruned or has failed."""
        return self.state.state in ("failed", "pruned")

    @property
    def is_pruned(self) -> bool:
        return any(trial.state == "pruned" for trial in self.trials)

    @property
    def values(self) -> Sequence[float]:
        """Its objective at each rung it has arrived at, which it has not before Tune has let go of all its trials."""
        values = (objective_at(rung, self.epochs) for rung in self.rungs[:-1])
        arrived = [value for value in values if value is not None]
        return arrived[: self.rung] if self.running else arrived

    @property
    def means(self) -> dict[int, float]:
        """The objective after each epoch that all folds of its rung have trained, if it is defined."""
        curve = objective_curve(self.epochs[: self.rungs[self.rung].folds])
        return {epoch: mean for epoch, mean in enumerate(curve, 1) if math.isfinite(mean)}

    def has_arrived(self, fold: int) -> bool:
        """Whether a fold has trained as far as the rung asks; at the last rung, whether it has finished."""
        if self.trials[fold].state == "finished":
            return True
        return self.rung < len(self.rungs) - 1 and len(self.epochs[fold]) >= self.rungs[self.rung].epochs
