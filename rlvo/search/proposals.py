"""Optuna's side of a study: one Optuna trial a configuration, kept where `rlvo.search.storage` says."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from rlvo.config.model import Configuration
from rlvo.config.space import Choices, Range, Scalar, conditions
from rlvo.config.study import StudyConfig
from rlvo.search.storage import answering, open_optuna

Values = Mapping[str, Scalar]
"""A value for every axis that matters to a configuration, by dotted path."""


@dataclass(frozen=True)
class Proposal:
    """A configuration Optuna asked for. Two proposals may be of the same configuration."""

    number: int
    """Optuna's trial number."""
    values: Values
    configuration: Configuration
    state: TrialState = TrialState.RUNNING


class Proposals:
    """Ask for configurations, tell their objective; what was asked before is there again after any death.

    Enumerated axes (with the grid sampler, all axes) are dealt, so that every combination gets its share; the others
    are suggested by the sampler, where they matter (`StudyConfig.is_active`). A proposal depends on the seed, its
    number and what was told before, and not on when the process was started.
    """

    def __init__(self, study: StudyConfig, folder: Path) -> None:
        self.budget = study.configurations
        """How many configurations to propose."""
        space, self._grid = study.space, study.search.sampler == "grid"
        self._study = study
        self._points = study.grid_points() if self._grid else study.combinations()
        self._axes = {path: CategoricalDistribution(values) for path, values in space.enumerate.items()} | {
            path: _distribution(axis, grid=self._grid) for path, axis in space.sample.items()
        }
        self._optuna = open_optuna(study, folder)

    @answering()
    def earlier(self) -> list[Proposal]:
        """What an earlier process proposed, in order."""
        proposals = []
        for trial in self._optuna.get_trials(deepcopy=False):
            if self._is_whole(trial.params) and trial.state != TrialState.WAITING:
                proposals.append(self._proposal(trial.number, trial.params, trial.state))
            elif trial.state == TrialState.RUNNING:  # its process died in the middle of asking
                self._optuna.tell(trial.number, state=TrialState.FAIL)
        return proposals

    @answering()
    def propose(self, taken: Sequence[Proposal]) -> Proposal:
        """The next configuration, after those `taken`."""
        if not self._optuna.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._optuna.enqueue_trial(self._next_point(taken))
        number = len(self._optuna.get_trials(deepcopy=False)) - 1
        self._optuna.sampler = _sampler(self._study, number)
        trial = self._optuna.ask()
        for path in sorted(self._axes, key=lambda path: bool(conditions(path))):  # stable: conditions come first
            if self._study.is_active(path, trial.params):
                _suggest(trial, path, self._axes[path])
        return self._proposal(trial.number, trial.params)

    @answering()
    def report(self, proposal: Proposal, means: Mapping[int, float]) -> None:
        """The mean over folds so far, by epoch, of a proposal that was not told; what is there already stays."""
        trial = self._optuna.get_trials(deepcopy=False)[proposal.number]
        for epoch, mean in means.items():
            if epoch not in trial.intermediate_values:
                self._optuna._storage.set_trial_intermediate_value(trial._trial_id, epoch, mean)

    @answering()
    def tell(self, proposal: Proposal, objective: float | None, *, pruned: bool = False) -> None:
        """The objective of a proposal; None where its configuration failed or was pruned."""
        if pruned:
            self._optuna.tell(proposal.number, state=TrialState.PRUNED)
        elif objective is None:
            self._optuna.tell(proposal.number, state=TrialState.FAIL)
        else:
            self._optuna.tell(proposal.number, objective)

    def _is_whole(self, values: Values) -> bool:
        return set(values) == {path for path in self._axes if self._study.is_active(path, values)}

    def _active(self, values: Values) -> dict[str, Scalar]:
        """The values of the axes that matter to a configuration."""
        return {path: value for path, value in values.items() if self._study.is_active(path, values)}

    def _next_point(self, taken: Sequence[Proposal]) -> dict[str, Scalar]:
        """What the next proposal has fixed: its share of what is dealt; at the start, where asked for, the defaults."""
        dealt = _next_point(self._points, tuple(self._study.space.enumerate), [p.values for p in taken])
        if taken or not self._study.search.defaults_first:
            return dealt
        default = self._active({path: self._study.default(path) for path in self._axes})
        if any(point.items() <= default.items() for point in self._points):
            return default
        return self._active(default | dealt)

    def _proposal(self, number: int, values: Values, state: TrialState = TrialState.RUNNING) -> Proposal:
        return Proposal(number, values, self._study.configuration(dict(values)), state)


def _distribution(axis: Range | Choices, *, grid: bool) -> BaseDistribution:
    if grid or isinstance(axis, Choices):
        return CategoricalDistribution(axis.grid())
    if axis.is_integer:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def _suggest(trial: optuna.Trial, path: str, distribution: BaseDistribution) -> None:
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(path, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(path, distribution.low, distribution.high, log=distribution.log, step=distribution.step)
    elif isinstance(distribution, FloatDistribution):
        trial.suggest_float(path, distribution.low, distribution.high, log=distribution.log, step=distribution.step)


def _sampler(study: StudyConfig, number: int) -> BaseSampler:
    """A sampler seeded for one proposal: a restarted study must not draw its first numbers again."""
    seed = int(np.random.SeedSequence([study.search.seed, number]).generate_state(1)[0])
    if study.search.sampler != "tpe":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True)


def _next_point(points: Sequence[Values], enumerated: Sequence[str], taken: Sequence[Values]) -> dict[str, Scalar]:
    """The point dealt least so far; among equals one whose enumerated combination was dealt least; then the first."""

    dealt = {path for point in points for path in point}

    def point(values: Values) -> tuple[Scalar | None, ...]:
        return tuple(values.get(path) for path in sorted(dealt))

    def combination(values: Values) -> tuple[Scalar | None, ...]:
        return tuple(values.get(path) for path in enumerated)

    def times_dealt(values: Values) -> tuple[int, int]:
        return points_dealt[point(values)], combinations_dealt[combination(values)]

    points_dealt, combinations_dealt = Counter(map(point, taken)), Counter(map(combination, taken))
    least: Values = min(points, key=times_dealt)
    return dict(least)
