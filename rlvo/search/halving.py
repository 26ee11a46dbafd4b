"""Successive halving over epochs and folds: which configurations go on, and to where.

The configurations of a bracket climb the same rungs: few epochs on the first folds, then more, at last all epochs on
all folds. Of those that start for a rung, the best 1/η go on (Jamieson & Talwalkar, AISTATS 2016; comparing on a part
of the folds first is racing, Maron & Moore, NIPS 1993). A configuration is let past or pruned once nothing that is
still to come can change that, so which ones survive depends on their values alone: not on the number of workers, on the
order in which trials end, or on restarts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvo.config.model import Configuration
from rlvo.config.study import SearchConfig
from rlvo.training.records import OBJECTIVE, EpochMetrics


@dataclass(frozen=True)
class Rung:
    """What a configuration has trained when it arrives: so many epochs on folds 0 to `folds` − 1."""

    folds: int
    epochs: int


def ladder(search: SearchConfig, folds: int, epochs: int) -> tuple[Rung, ...]:
    """The rungs, lowest first; the last is all epochs on all folds, and without pruning the only one."""
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
    """Epochs over all folds of so many configurations compared with one another, where no trial fails."""
    epochs = climbed = 0
    for rung in rungs:
        height = rung.folds * rung.epochs
        epochs += configurations * (height - climbed)
        configurations, climbed = math.ceil(configurations / reduction_factor), height
    return epochs


def group(configuration: Configuration, compare_within: Sequence[str]) -> tuple[object, ...]:
    """What a configuration has in the fields (dotted paths) in which those compared with it agree."""
    values: list[Any] = []
    for path in compare_within:
        values.append(configuration)
        for name in path.split("."):
            values[-1] = getattr(values[-1], name)
    return tuple(values)


def objective_at(rung: Rung, epochs: Mapping[int, Sequence[EpochMetrics]]) -> float | None:
    """The objective, had training ended at the rung: mean over its folds at each fold's lowest validation loss so far.

    Args:
        rung: folds and epochs.
        epochs: by fold, every epoch's metrics so far.

    Returns:
        −inf where the objective is undefined on a fold; None where a fold has not come so far.
    """
    of_folds = [epochs.get(fold, ())[: rung.epochs] for fold in range(rung.folds)]
    if any(len(of_fold) < rung.epochs for of_fold in of_folds):
        return None
    best = [min(of_fold, key=lambda metrics: metrics["val/loss"]) for of_fold in of_folds]
    mean = math.fsum(metrics.get(OBJECTIVE, math.nan) for metrics in best) / rung.folds
    return mean if math.isfinite(mean) else -math.inf


@dataclass(frozen=True)
class Climber:
    """How far a configuration has come."""

    key: str
    values: tuple[float, ...]
    """Its objective at each rung it has arrived at, lowest first."""
    passed: int = 0
    """How many rungs it was let past already; that stays."""
    has_ended: bool = False
    """It climbs no more: pruned, or a fold failed."""
    is_pruned: bool = False


@dataclass(frozen=True)
class Verdict:
    """Where a configuration goes."""

    rung: int
    """The rung it trains for, or that it was pruned at."""
    pruned: str | None = None
    """Why it is pruned."""


def judge(climbers: Sequence[Climber], rungs: Sequence[Rung], reduction_factor: int) -> dict[str, Verdict]:
    """What can be said for certain of each configuration of a bracket, by key.

    Args:
        climbers: all of them, in the order they were proposed; the first of equals goes on.
        rungs: from `ladder`; there is no comparison at the last.
        reduction_factor: η; of n that start for a rung, n/η (rounded up) go on.
    """
    verdicts: dict[str, Verdict] = {}
    for number, rung in enumerate(rungs):
        verdicts |= {climber.key: Verdict(number) for climber in climbers}
        if number == len(rungs) - 1:
            break
        keep = math.ceil(len(climbers) / reduction_factor)
        arrived = sorted((c for c in climbers if len(c.values) > number), key=lambda c: -c.values[number])
        coming = sum(len(c.values) <= number and not c.has_ended for c in climbers)
        past = set()
        for place, climber in enumerate(arrived):
            if climber.is_pruned and climber.passed <= number:
                continue
            if climber.passed > number or place + coming < keep:
                past.add(climber.key)
            elif place >= keep:
                reason = (
                    f"after {rung.epochs} epochs on {rung.folds} folds, {keep} of {len(climbers)} configurations "
                    "went on and were better"
                )
                verdicts[climber.key] = Verdict(number, reason)
        verdicts |= {key: Verdict(number + 1) for key in past}
        if coming:
            break
        climbers = [climber for climber in climbers if climber.key in past]
    return verdicts
