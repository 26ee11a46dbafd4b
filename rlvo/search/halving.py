"""Successive halving over epochs and folds: how far each configuration has come, which continue, and how far.

The configurations of a bracket climb the same rungs: few epochs on the first folds, then more, finally all epochs on
all folds. Of those that start for a rung, the best 1/η continue (Jamieson & Talwalkar, AISTATS 2016; comparing on some
of the folds first is racing, Maron & Moore, NIPS 1993). A configuration is let past or pruned once nothing still to
come can change that. So which ones survive depends on their values alone: not on the number of workers, on the order in
which trials end, or on restarts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING

from rlvo.config.model import Configuration
from rlvo.config.sections import SearchConfig
from rlvo.config.training import CheckpointName, TrainingConfig
from rlvo.study.state import ConfigurationState, State, TrialState, trial_state
from rlvo.training.records import OBJECTIVE, CompletionRecord, EpochMetrics, is_better

if TYPE_CHECKING:  # `rlvo plan` reads this module, and starts without Optuna
    from rlvo.search.proposals import Proposal


@dataclass(frozen=True)
class Rung:
    """What a configuration has trained when it arrives: `epochs` epochs on folds 0 to `folds` − 1."""

    folds: int
    epochs: int


def ladder(search: SearchConfig, folds: int, epochs: int) -> tuple[Rung, ...]:
    """The rungs, lowest first; the last is all epochs on all folds, and the only one if nothing is pruned."""
    rungs = []
    if search.pruning == "halving":
        steps, step = [], search.min_epochs
        while step < epochs:
            steps.append(step)
            step *= search.reduction_factor
        if search.first_folds < folds:
            steps.append(epochs)
        rungs = [Rung(search.first_folds, step) for step in steps]
    return (*rungs, Rung(folds, epochs))


def epochs_to_train(rungs: Sequence[Rung], configurations: int, reduction_factor: int) -> int:
    """Epochs over all folds of this many configurations compared with one another, if no trial fails."""
    epochs = climbed = 0
    for rung in rungs:
        height = rung.folds * rung.epochs
        epochs += configurations * (height - climbed)
        configurations, climbed = math.ceil(configurations / reduction_factor), height
    return epochs


def group(configuration: Configuration, compare_within: Sequence[str]) -> tuple[object, ...]:
    """The values of the fields (dotted paths) that configurations must share to be compared with one another."""
    return tuple(attrgetter(path)(configuration) for path in compare_within)


def objective_curve(folds: Sequence[Sequence[EpochMetrics]], by: CheckpointName = "loss") -> list[float]:
    """The objective if training had ended after each of the epochs that all folds have trained.

    Returns:
        Mean over the folds of the objective at each fold's best epoch so far; −inf if it is undefined on a fold.
    """

    def better(best: EpochMetrics, epoch: EpochMetrics) -> EpochMetrics:
        return epoch if is_better(epoch, best, by) else best

    best = (accumulate(fold, better) for fold in folds)
    means = (
        math.fsum(fold.get(OBJECTIVE, math.nan) for fold in epoch) / len(folds) for epoch in zip(*best, strict=False)
    )
    return [mean if math.isfinite(mean) else -math.inf for mean in means]


def objective_at(rung: Rung, folds: Sequence[Sequence[EpochMetrics]], by: CheckpointName = "loss") -> float | None:
    """The objective of `objective_curve` at a rung, from every fold's metrics so far; None if a fold is not there."""
    if any(len(fold) < rung.epochs for fold in folds[: rung.folds]):
        return None
    return objective_curve([fold[: rung.epochs] for fold in folds[: rung.folds]], by)[-1]


@dataclass(eq=False)
class Contender:
    """A configuration in the search."""

    key: str
    configuration: Configuration
    rungs: Sequence[Rung]
    bracket: tuple[int, tuple[object, ...]]
    """Identifies those it is compared with."""
    epochs: list[Sequence[EpochMetrics]]
    """By fold, the metrics of every epoch so far."""
    untold: list[Proposal] = field(default_factory=list)
    """Proposals of this configuration whose objective Optuna is still to be told."""
    trials: list[TrialState] = field(init=False)
    """By fold."""
    passed: int = field(init=False)
    """How many rungs it was let past already; that stays."""
    rung: int = 0
    """The rung it trains for."""
    waiting: list[int] = field(default_factory=list)
    """Folds to hand to Tune, the next one first."""
    running: set[int] = field(default_factory=set)
    """Folds that Tune has, and has not yet said how they ended."""
    is_pruned: bool = field(init=False)
    """Whether one of its trials was."""
    _state: ConfigurationState | None = None
    _arrived: tuple[float, ...] | None = None
    """Its objective at each rung it has arrived at; None if that is to be worked out."""

    def __post_init__(self) -> None:
        self.trials = [trial_state(fold, None, epochs) for fold, epochs in enumerate(self.epochs)]
        self.is_pruned = False
        self.passed = sum(
            any(e and (fold >= rung.folds or len(e) > rung.epochs) for fold, e in enumerate(self.epochs))
            for rung in self.rungs[:-1]
        )

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
        self._state = self._arrived = None
        epochs = self.epochs[fold]
        self.trials[fold] = trial_state(fold, record, epochs, failure=failure, pruning=pruning, unended=unended)
        self.is_pruned = any(trial.state == "pruned" for trial in self.trials)

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
    def _training(self) -> TrainingConfig:
        return self.configuration.training

    def _value(self, rung: Rung) -> float | None:
        """Its objective at a rung; None if it has not arrived there."""
        if not all(self._is_at(rung, fold) for fold in range(rung.folds)):
            return None
        epochs = self.epochs
        if rung.epochs == self._training.epochs:  # of the last start, if a trial was started again
            epochs = [fold[len(fold) - rung.epochs :] for fold in epochs]
        return objective_at(rung, epochs, self._training.checkpoint)

    def _is_at(self, rung: Rung, fold: int) -> bool:
        """Whether a fold has trained as far as a rung asks; a whole trial that may start again has to have finished."""
        if rung.epochs == self._training.epochs and self._training.restarts:
            return self.trials[fold].state == "finished"
        return len(self.epochs[fold]) >= rung.epochs

    @property
    def values(self) -> Sequence[float]:
        """Its objective at each rung it has arrived at, which it has not before Tune has let go of all its trials."""
        arrived = self.appraise()
        return arrived[: self.rung] if self.running else arrived

    def appraise(self) -> Sequence[float]:
        """Work out `values` when it has come further, and not of all configurations at once when they are compared."""
        if self._arrived is None:
            found = map(self._value, self.rungs[:-1])
            self._arrived = tuple(value for value in found if value is not None)
        return self._arrived

    @property
    def means(self) -> dict[int, float]:
        """The objective after each epoch that all folds of its rung have trained, if it is defined."""
        first_starts = [fold[: self._training.epochs] for fold in self.epochs[: self.rungs[self.rung].folds]]
        curve = objective_curve(first_starts, self._training.checkpoint)
        return {epoch: mean for epoch, mean in enumerate(curve, 1) if math.isfinite(mean)}

    def has_arrived(self, fold: int) -> bool:
        """Whether a fold has trained as far as the rung asks; at the last rung, whether it has finished."""
        if self.trials[fold].state == "finished":
            return True
        return self.rung < len(self.rungs) - 1 and self._is_at(self.rungs[self.rung], fold)
