"""Successive halving over epochs and folds: which configurations continue, and how far.

The configurations of a bracket climb the same rungs: few epochs on the first folds, then more, finally all epochs on
all folds. Of those that start for a rung, the best 1/η continue (Jamieson & Talwalkar, AISTATS 2016; comparing on some
of the folds first is racing, Maron & Moore, NIPS 1993). A configuration is let past or pruned once nothing still to
come can change that. So which ones survive depends on their values alone: not on the number of workers, on the order in
which trials end, or on restarts.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

from rlvo.config.model import Configuration
from rlvo.config.study import SearchConfig
from rlvo.training.records import OBJECTIVE, EpochMetrics


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
    values: list[Any] = []
    for path in compare_within:
        values.append(configuration)
        for name in path.split("."):
            values[-1] = getattr(values[-1], name)
    return tuple(values)


def objective_curve(folds: Sequence[Sequence[EpochMetrics]]) -> list[float]:
    """The objective if training had ended after each of the epochs that all folds have trained.

    Returns:
        Mean over the folds of the objective at each fold's lowest validation loss so far (the first of equals); −inf if
        it is undefined on a fold.
    """
    best = (accumulate(fold, _better) for fold in folds)
    means = (
        math.fsum(fold.get(OBJECTIVE, math.nan) for fold in epoch) / len(folds) for epoch in zip(*best, strict=False)
    )
    return [mean if math.isfinite(mean) else -math.inf for mean in means]


def objective_at(rung: Rung, folds: Sequence[Sequence[EpochMetrics]]) -> float | None:
    """The objective of `objective_curve` at a rung, from every fold's metrics so far; None if a fold is not there."""
    if any(len(fold) < rung.epochs for fold in folds[: rung.folds]):
        return None
    return objective_curve([fold[: rung.epochs] for fold in folds[: rung.folds]])[-1]


def _better(first: EpochMetrics, second: EpochMetrics) -> EpochMetrics:
    return second if second["val/loss"] < first["val/loss"] else first


class Climber(Protocol):
    """How far a configuration has come."""

    @property
    def key(self) -> str: ...

    @property
    def values(self) -> Sequence[float]:
        """Its objective at each rung it has arrived at, lowest first."""

    @property
    def passed(self) -> int:
        """How many rungs it was let past already; that stays."""

    @property
    def has_ended(self) -> bool:
        """Whether it climbs no more: it was pruned, or a fold failed."""

    @property
    def is_pruned(self) -> bool: ...


@dataclass(frozen=True)
class Verdict:
    """Where a configuration goes."""

    rung: int
    """The rung it trains for, or that it was pruned at."""
    pruned: str | None = None
    """Why it is pruned."""


class Bracket:
    """The configurations that are compared with one another, and how far each may climb.

    Args:
        climbers: all of them, in the order they were proposed; the first of equals continues.
        rungs: from `ladder`; there is no comparison at the last.
        reduction_factor: η; of n that start for a rung, n/η (rounded up) continue.
    """

    def __init__(self, climbers: Sequence[Climber], rungs: Sequence[Rung], reduction_factor: int) -> None:
        self._climbers, self._rungs, self._factor = climbers, rungs, reduction_factor
        self._numbers = {climber.key: number for number, climber in enumerate(climbers)}
        self._values: list[tuple[float, ...]] = []
        self._rung = self._starting = self._keep = 0
        """The rung that is being compared at, how many started for it, and how many of them continue."""
        self._arrived: list[tuple[float, int]] = []
        """At that rung, best first: minus the value, and the climber's number."""
        self._coming, self._past = set[int](), set[int]()

    def judge(self) -> dict[str, Verdict]:
        """What is certain of every climber, by key, in the order they were proposed."""
        self._values = [tuple(climber.values) for climber in self._climbers]
        return self._by_key(self._compare(0, range(len(self._climbers))))

    def update(self, climber: Climber) -> dict[str, Verdict]:
        """What one climber's news makes certain, as `judge` would say, at a cost that does not grow with the bracket.

        Only the climbers next to the limits of those let past and those pruned can be affected.
        """
        number, values = self._numbers[climber.key], tuple(climber.values)
        known, self._values[number] = self._values[number], values
        compared = self._rung if number in self._coming else self._rung + 1
        if values[:compared] != known[:compared]:  # a failed fold's sibling came further, or epochs were trained again
            return self.judge()
        has_arrived = len(values) > self._rung
        if number not in self._coming or not (has_arrived or climber.has_ended):
            return {}
        self._coming.remove(number)
        places = {self._keep - len(self._coming) - 1, self._keep}
        if has_arrived:
            arrival = (-values[self._rung], number)
            places.add(place := bisect_left(self._arrived, arrival))
            self._arrived.insert(place, arrival)
        verdicts: dict[int, Verdict] = {}
        for place in places:
            if 0 <= place < len(self._arrived):
                verdicts |= self._verdict(place)
        return self._by_key(verdicts | self._climb())

    def _compare(self, rung: int, starters: Sequence[int]) -> dict[int, Verdict]:
        """Verdicts on those who start for a rung, and for the rungs above if nobody is still to come."""
        verdicts = {number: Verdict(rung) for number in starters}
        self._rung, self._starting, self._keep = rung, len(starters), math.ceil(len(starters) / self._factor)
        self._arrived, self._coming, self._past = [], set(), set()
        if rung == len(self._rungs) - 1:
            return verdicts
        for number in starters:
            if len(self._values[number]) > rung:
                self._arrived.append((-self._values[number][rung], number))
            elif not self._climbers[number].has_ended:
                self._coming.add(number)
        self._arrived.sort()
        for place in range(len(self._arrived)):
            verdicts |= self._verdict(place)
        return verdicts | self._climb()

    def _climb(self) -> dict[int, Verdict]:
        if self._coming or self._rung == len(self._rungs) - 1:
            return {}
        return self._compare(self._rung + 1, sorted(self._past))

    def _verdict(self, place: int) -> dict[int, Verdict]:
        number = self._arrived[place][1]
        climber, rung = self._climbers[number], self._rungs[self._rung]
        if climber.is_pruned and climber.passed <= self._rung:
            return {}
        if number in self._past or climber.passed > self._rung or place + len(self._coming) < self._keep:
            self._past.add(number)
            return {number: Verdict(self._rung + 1)}
        if place < self._keep:
            return {}
        reason = f"after {rung.epochs} epochs on {rung.folds} folds, {self._keep} of {self._starting} configurations "
        return {number: Verdict(self._rung, reason + "went on and were better")}

    def _by_key(self, verdicts: Mapping[int, Verdict]) -> dict[str, Verdict]:
        return {self._climbers[number].key: verdicts[number] for number in sorted(verdicts)}
