"""Optuna's side of a study: one Optuna trial a configuration, kept in a journal in the study folder."""

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
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from rlvo.config.model import Configuration
from rlvo.config.space import Choices, Range, Scalar
from rlvo.config.study import StudyConfig

JOURNAL = "optuna.journal"

Values = Mapping[str, Scalar]
"""A value for every axis of the space, by dotted path."""


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
    are suggested by the sampler. A proposal depends on the seed, its number and what was told before, and not on
    when the process was started.
    """

    def __init__(self, study: StudyConfig, folder: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space, self._grid = study.space, study.search.sampler == "grid"
        self._study = study
        self._points = space.grid() if self._grid else space.combinations()
        self._axes = {path: CategoricalDistribution(values) for path, values in space.enumerate.items()} | {
            path: _distribution(axis, grid=self._grid) for path, axis in space.sample.items()
        }
        folder.mkdir(parents=True, exist_ok=True)
        self._optuna = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            study_name=study.name,
            direction="maximize",
            load_if_exists=True,
        )

    @property
    def budget(self) -> int:
        """How many configurations to propose."""
        return self._study.configurations

    def earlier(self) -> list[Proposal]:
        """What an earlier process proposed, in order."""
        proposals = []
        for trial in self._optuna.get_trials(deepcopy=False):
            if set(trial.params) == set(self._axes) and trial.state != TrialState.WAITING:
                proposals.append(self._proposal(trial.number, trial.params, trial.state))
            elif trial.state == TrialState.RUNNING:  # its process died in the middle of asking
                self._optuna.tell(trial.number, state=TrialState.FAIL)
        return proposals

    def propose(self, taken: Sequence[Proposal]) -> Proposal:
        """The next configuration, after those `taken`."""
        if not self._optuna.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._optuna.enqueue_trial(
                _next_point(self._points, tuple(self._study.space.enumerate), [p.values for p in taken])
            )
        number = len(self._optuna.get_trials(deepcopy=False)) - 1
        self._optuna.sampler = _sampler(self._study, number)
        trial = self._optuna.ask(self._axes)
        return self._proposal(trial.number, trial.params)

    def tell(self, proposal: Proposal, objective: float | None) -> None:
        """The objective of a proposal; None where its configuration failed."""
        if objective is None:
            self._optuna.tell(proposal.number, state=TrialState.FAIL)
        else:
            self._optuna.tell(proposal.number, objective)

    def _proposal(self, number: int, values: Values, state: TrialState = TrialState.RUNNING) -> Proposal:
        return Proposal(number, values, self._study.configuration(dict(values)), state)


def _distribution(axis: Range | Choices, *, grid: bool) -> BaseDistribution:
    if grid or isinstance(axis, Choices):
        return CategoricalDistribution(axis.grid())
    if axis.is_integer:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


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

    def point(values: Values) -> tuple[Scalar, ...]:
        return tuple(values[path] for path in points[0])

    def combination(values: Values) -> tuple[Scalar, ...]:
        return tuple(values[path] for path in enumerated)

    def times_dealt(values: Values) -> tuple[int, int]:
        return points_dealt[point(values)], combinations_dealt[combination(values)]

    points_dealt, combinations_dealt = Counter(map(point, taken)), Counter(map(combination, taken))
    least: Values = min(points, key=times_dealt)
    return dict(least)
