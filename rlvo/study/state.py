"""The state of trials, configurations and studies: decided here for search, display, `rlvo status` and MLflow alike."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from rlvo.config.model import Configuration
from rlvo.study.folder import CONFIGURATION
from rlvo.training.records import (
    OBJECTIVE,
    CompletionRecord,
    EpochMetrics,
    mean_objective,
    objective_se,
    standard_error,
)

State = Literal["finished", "pruned", "failed", "damaged", "running", "silent", "waiting", "skipped"]
"""`waiting`: for its turn, or until others can be compared with it. `silent`: started, not ended, and nobody trains it:
the search was stopped, or a process died. `skipped`: will not start, because another fold of its configuration failed
or was pruned. `damaged`: a file cannot be read."""

ENDED: tuple[State, ...] = ("finished", "pruned", "failed", "skipped")
DECISIVE: tuple[State, ...] = ("failed", "pruned", "damaged", "running", "silent", "waiting")
"""A configuration is in the first of these states that one of its trials is in; if none is, it has finished."""


@dataclass(frozen=True)
class TrialState:
    """A configuration on one fold."""

    fold: int
    state: State = "waiting"
    epoch: int = 0
    """Number of epochs that have ended."""
    auc: float | None = None
    """`val/auc` at the best epoch; at the last epoch if the trial has not ended."""
    reason: str | None = None
    """Why it failed or was pruned, or what is damaged."""
    record: CompletionRecord | None = None
    """If it left one."""


def trial_state(
    fold: int,
    record: CompletionRecord | None = None,
    epochs: Sequence[EpochMetrics] = (),
    *,
    failure: str | None = None,
    pruning: str | None = None,
    unended: State = "waiting",
) -> TrialState:
    """The state of a trial. Its record decides; without one, what the search knows does.

    Args:
        fold: the trial's fold.
        record: the completion record; None if the trial left none.
        epochs: the metrics of every epoch so far.
        failure: why it failed: not every failure leaves a record.
        pruning: why it was pruned: a trial that was never started leaves no record.
        unended: the state of a trial that has not ended.
    """
    if record is not None:
        reason = record.failure or record.reason
        return TrialState(fold, record.outcome, record.epochs, record.objective, reason, record)
    state: State = "failed" if failure else "pruned" if pruning else unended
    return TrialState(fold, state, len(epochs), epochs[-1].get(OBJECTIVE) if epochs else None, failure or pruning)


def combined_state(states: Iterable[State]) -> State:
    """The state of a configuration, from those of its trials: one failed fold fails all of them."""
    found = set(states)
    return next((state for state in DECISIVE if state in found), "finished")


@dataclass(frozen=True)
class ConfigurationState:
    """A configuration that was started or proposed, on all folds."""

    key: str
    label: str
    epochs: int
    """Of a whole trial."""
    trials: tuple[TrialState, ...]
    configuration: Configuration | None
    """None if it cannot be read."""

    @classmethod
    def of(
        cls, key: str, configuration: Configuration | None, trials: Sequence[TrialState], epochs: int = 0
    ) -> ConfigurationState:
        """From its trials by fold; `epochs` is for a configuration that cannot be read."""
        if any(trial.state in ("failed", "pruned") for trial in trials):
            trials = [TrialState(trial.fold, "skipped") if trial.state == "waiting" else trial for trial in trials]
        if configuration is None:
            return cls(key, f"{CONFIGURATION} cannot be read", epochs, tuple(trials), None)
        return cls(key, configuration.label, configuration.training.epochs, tuple(trials), configuration)

    @cached_property
    def state(self) -> State:
        return combined_state(trial.state for trial in self.trials)

    @property
    def is_open(self) -> bool:
        """Whether it has neither finished nor failed, and was not pruned."""
        return self.state not in ("finished", "failed", "pruned")

    @property
    def records(self) -> dict[int, CompletionRecord]:
        """The records of the trials that have finished, by fold."""
        return {each.fold: each.record for each in self.trials if each.state == "finished" and each.record is not None}

    @property
    def auc(self) -> float | None:
        """Mean of `val/auc` over the folds that have finished; None if none has."""
        return mean_objective(records) if (records := list(self.records.values())) else None

    @cached_property
    def objective(self) -> float | None:
        """What configurations are compared by: the mean of `val/auc` over all folds; None unless all have finished."""
        return self.auc if self.state == "finished" else None

    @property
    def standard_error(self) -> float | None:
        """The standard error of its objective over the folds (`objective_se`); None unless all have finished."""
        return objective_se(self.records.values()) if self.state == "finished" else None

    def reasons(self, state: State) -> dict[int, str]:
        """Why trials are in this state, by fold."""
        return {trial.fold: trial.reason for trial in self.trials if trial.state == state and trial.reason is not None}


@dataclass(frozen=True)
class FinishedConfiguration:
    """A configuration with its repeats (`training.repeat`), as far as they have finished: what is compared."""

    repeats: tuple[ConfigurationState, ...]
    """In their order; a single one if there are no others."""

    @property
    def key(self) -> str:
        """Of the first repeat."""
        return self.repeats[0].key

    @property
    def label(self) -> str:
        """Without the repeat's number."""
        first = self.repeats[0]
        return first.label if first.configuration is None else first.configuration.first_repeat.label

    @cached_property
    def _means(self) -> list[float]:
        """The objective on each fold, over the repeats."""
        of_folds = [[trial.auc for trial in each.trials if trial.auc is not None] for each in self.repeats]
        return [math.fsum(values) / len(values) for values in zip(*of_folds, strict=True)]

    @property
    def objective(self) -> float:
        """The mean of `val/auc` over folds and repeats."""
        return math.fsum(self._means) / len(self._means)

    @property
    def standard_error(self) -> float | None:
        """Of that mean over the folds, as `ConfigurationState.standard_error`."""
        return standard_error(self._means)


def finished_configurations(configurations: Iterable[ConfigurationState]) -> list[FinishedConfiguration]:
    """Those that have finished every fold, repeats together, the highest mean first; of equals, the first started."""
    groups = defaultdict[str, list[ConfigurationState]](list)
    for each in configurations:
        if each.objective is not None:
            own = each.configuration
            shared = each.key if own is None or own.training.repeat == 0 else own.first_repeat.key
            groups[shared].append(each)
    found = [FinishedConfiguration(tuple(sorted(group, key=_repeat))) for group in groups.values()]
    return sorted(found, key=lambda each: -each.objective)


def _repeat(each: ConfigurationState) -> int:
    return each.configuration.training.repeat if each.configuration else 0


@dataclass(frozen=True)
class StudyState:
    """A study at one moment."""

    name: str
    configurations_total: int
    folds: int
    epochs: int
    """Of a whole trial of a configuration that is yet to be proposed."""
    configurations: tuple[ConfigurationState, ...]
    """Those that were started; by key if read from the folder, in the order of the proposals if told by the search."""
    quiet_seconds: float | None = 0.0
    """Since the last sign of life; None if no trial was started."""
    at_once: int = 0
    """The most trials that have run at once, as far as is known."""
    eta_seconds: float | None = None
    """About how long it still takes; None if no trial runs or it is not known yet (`search.forecast` knows)."""
    energy_kwh: float | None = None
    """What its trials have taken of processors and GPUs; None if that is not counted on their machines."""
    has_finished: bool = False
    """As the search said: every configuration was proposed, and every trial has ended."""

    @property
    def trials_total(self) -> int:
        return self.configurations_total * self.folds

    @cached_property
    def best(self) -> FinishedConfiguration | None:
        """What has the highest mean objective over folds and repeats, the first of equals; None if none has finished.

        A repeat is no configuration of its own here: of several, the luckiest would be the best.
        """
        return next(iter(finished_configurations(self.configurations)), None)

    @property
    def failed(self) -> tuple[ConfigurationState, ...]:
        """The configurations of which a fold failed."""
        return tuple(each for each in self.configurations if each.state == "failed")

    @property
    def is_complete(self) -> bool:
        """Whether every trial has ended."""
        return self.has_finished or self.count(*ENDED) >= self.trials_total

    def count(self, *states: State) -> int:
        """How many trials are in one of these states."""
        return sum(trial.state in states for each in self.configurations for trial in each.trials)

    @property
    def at_chance(self) -> int:
        """How many trials have finished that do not even tell apart the patients they were trained on."""
        records = (trial.record for each in self.configurations for trial in each.trials)
        return sum(record is not None and record.never_left_chance for record in records)

    @property
    def restarted(self) -> int:
        """How many trials have ended that started again because they had not left chance."""
        records = (trial.record for each in self.configurations for trial in each.trials)
        return sum(record is not None and len(record.starts) > 1 for record in records)

    @property
    def may_restart(self) -> bool:
        """Whether trials that never leave chance start again (`training.restarts`)."""
        return any(each.configuration.training.restarts > 0 for each in self.configurations if each.configuration)

    @property
    def retried(self) -> int:
        """How many trials have ended that ran out of memory and went on with fewer patients at once."""
        records = (trial.record for each in self.configurations for trial in each.trials)
        return sum(record is not None and len(record.retries) > 0 for record in records)


def seconds_per_epoch(records: Iterable[CompletionRecord | None], by_clock: float | None) -> float | None:
    """Mean over the trials that have ended; if none of them trained an epoch, what the clock says, or None."""
    trained = [record for record in records if record is not None and record.epochs]
    return sum(record.seconds for record in trained) / sum(record.epochs for record in trained) if trained else by_clock
