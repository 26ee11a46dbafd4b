"""How long a study still takes: what is left of its ladder, at the pace of its networks, on so many slots.

Trials that are known to run or to wait are taken as they are. Which configurations will be let past a rung isn't known,
so as many as the ladder lets past are, at the mean pace of those it will choose among, once the others have arrived.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from statistics import fmean

from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.search.halving import Rung, group, ladder
from rlvo.study.folder import StudyFolder, read_config
from rlvo.study.specs import Spec, Values, decisive, spec_of, specs_of
from rlvo.study.state import StudyState
from rlvo.study.status import read_state
from rlvo.training.usage import Pace, UsageReader

TRIAL_SECONDS = 0.35
"""What Tune takes to start a trial in a process that had one before (docs/search.md)."""
JOULES_PER_KWH = 3.6e6

Paces = Mapping[Spec, Pace]
_Trial = tuple[tuple[bool, int], float]
"""Whether it waits, with its configuration's place: those that run come first; and the seconds to go."""


def read_forecast(study: StudyFolder, usage: UsageReader | None = None) -> StudyState:
    """Where a study stands, as its folder tells it, with the time to go. Errors are those of `read_state`.

    Args:
        study: its folder.
        usage: whoever asks again and again keeps one, so that only what has changed is read.
    """
    return with_forecast(read_state(study), study, read_config(study), usage or UsageReader())


def with_forecast(state: StudyState, study: StudyFolder, config: StudyConfig, usage: UsageReader) -> StudyState:
    """The state with the time to go and the energy so far, from what the trials in the study's folder measured."""
    measured, joules, is_complete = defaultdict[Spec, list[Pace]](list), list[float](), state.is_complete
    for each in state.configurations:
        own = list[Pace]()
        for trial in each.trials:
            if trial.epoch:
                record = trial.record
                pace, energy = usage.pace_and_energy(
                    study.trial_place(each.key, trial.fold), has_ended=record is not None
                )
                joules.append(energy)
                if pace is None and record is not None:  # trained by an earlier version
                    pace = Pace(record.seconds / record.epochs)
                own += [] if pace is None else [pace]
        if own and each.configuration is not None and not is_complete:
            measured[spec_of(each.configuration)] += own
    counted = math.fsum(each for each in joules if math.isfinite(each))
    state = replace(state, energy_kwh=counted / JOULES_PER_KWH if counted else None)
    if is_complete or not measured or not (slots := max(state.at_once, state.count("running"))):
        return state
    paces = {spec: mean_pace(each) for spec, each in measured.items()}
    return replace(state, eta_seconds=seconds_to_go(config, state, paces, slots))


def mean_pace(paces: Iterable[Pace]) -> Pace:
    """Of several trials, or of several networks."""
    paces = list(paces)
    return Pace(fmean(each.epoch for each in paces), fmean(each.start for each in paces))


def seconds_to_go(config: StudyConfig, state: StudyState, paces: Paces, slots: int) -> float:
    """About how long the search still takes if no trial fails, and none (again) starts anew (`training.restarts`).

    Args:
        state: where it stands; without any configuration: before it begins.
        paces: of at least one of the study's model specs; others are taken to be as quick as the mean of these.
        slots: how many trials run at once.
    """
    rungs = ladder(config.search, config.folds.folds, config.training.epochs)
    brackets = _brackets(config, state, paces)
    return _schedule([_climb(each, rungs, config.search.reduction_factor) for each in brackets], slots)


@dataclass(frozen=True)
class _Entrant:
    """A configuration, proposed or yet to be."""

    number: int
    """Its place in the order of the proposals."""
    pace: Pace
    total: int
    """Epochs of a whole trial."""
    epochs: Sequence[int]
    """How many have ended, by fold."""
    running: frozenset[int] = frozenset()
    """Folds."""
    is_open: bool = True
    """Whether it has neither finished nor failed, and was not pruned."""

    def is_past(self, rung: Rung) -> bool:
        """Whether it has trained more than the rung asks."""
        return any(done and (fold >= rung.folds or done > rung.epochs) for fold, done in enumerate(self.epochs))

    def left(self, rung: Rung) -> list[_Trial]:
        """Its trials that have not arrived at a rung."""
        found = []
        for fold in range(rung.folds):
            runs, done = fold in self.running, self.epochs[fold]
            if done > self.total:  # it never left chance and started again
                done = (done - 1) % self.total + 1
            epochs = min(rung.epochs, self.total) - done
            if epochs > 0 and (runs or self.is_open):
                found.append(((not runs, self.number), _trial_seconds(self.pace, epochs, is_started=runs)))
        return found


@dataclass
class _Step:
    """The trials of a bracket for one rung."""

    known: list[_Trial]
    """Those of configurations that were let that far."""
    coming: list[float]
    """Seconds of those that start once the rung below has ended."""


def _trial_seconds(pace: Pace, epochs: int, *, is_started: bool = False) -> float:
    return epochs * pace.epoch + (0.0 if is_started else pace.start + TRIAL_SECONDS)


def _brackets(config: StudyConfig, state: StudyState, paces: Paces) -> list[list[_Entrant]]:
    """The configurations that are compared with one another, those that are yet to be proposed last.

    In which order the others were proposed isn't known here; those that have come furthest are taken for the first.
    """
    overall = mean_pace(paces.values())

    def enter(specs: Sequence[Configuration]) -> tuple[tuple[object, ...], Pace]:
        """Which of a bracket it is compared with, and its pace, the mean of what it may turn out to be."""
        within = group(specs[0], config.search.compare_within) if specs else ()
        return within, mean_pace([paces.get(spec_of(spec), overall) for spec in specs] or [overall])

    known = sorted(state.configurations, key=lambda each: (each.is_open, -sum(trial.epoch for trial in each.trials)))
    entrants = list[tuple[tuple[object, ...], _Entrant]]()
    for each in known:
        within, pace = enter([each.configuration] if each.configuration is not None else [])
        running = frozenset(trial.fold for trial in each.trials if trial.state == "running")
        done = [each.epochs if trial.state == "finished" else trial.epoch for trial in each.trials]
        entrants.append((within, _Entrant(len(entrants), pace, each.epochs, done, running, each.is_open)))
    combinations = config.combinations()
    alike = dict[Values, tuple[tuple[object, ...], Pace, int]]()
    for number in range(len(known), state.configurations_total):
        combination = combinations[number % len(combinations)]
        values = decisive(combination, config.search.compare_within)
        if values not in alike:
            specs = specs_of(config, combination)
            alike[values] = (*enter(specs), specs[0].training.epochs)
        within, pace, epochs = alike[values]
        entrants.append((within, _Entrant(number, pace, epochs, [0] * state.folds)))
    size = config.search.bracket or len(entrants)
    found = defaultdict[tuple[object, ...], list[_Entrant]](list)
    for number, (within, entrant) in enumerate(entrants):
        found[number // size, *within].append(entrant)
    return list(found.values())


def _climb(entrants: Sequence[_Entrant], rungs: Sequence[Rung], factor: int) -> list[_Step]:
    """What a bracket still trains, rung by rung."""
    steps, below, starting = list[_Step](), Rung(0, 0), len(entrants)
    for rung in rungs:
        past = [each for each in entrants if each.is_past(below)] if steps else entrants
        others = [each for each in entrants if each.is_open and not each.is_past(below)] if steps else []
        places = min(starting - len(past), len(others))
        coming = list[float]()
        if places > 0:
            pace = mean_pace(each.pace for each in others)
            epochs = [rung.epochs - (below.epochs if fold < below.folds else 0) for fold in range(rung.folds)]
            coming = [_trial_seconds(pace, each) for each in epochs if each] * places
        steps.append(_Step([trial for each in past for trial in each.left(rung)], coming))
        below, starting = rung, math.ceil(starting / factor)
    return steps


def _schedule(brackets: Sequence[Sequence[_Step]], slots: int) -> float:
    """Seconds until the last trial ends: whoever is next takes the first slot that is free."""
    known = [
        (order, bracket, number, seconds)
        for bracket, steps in enumerate(brackets)
        for number, step in enumerate(steps)
        for order, seconds in step.known
    ]
    waiting = deque((bracket, number, seconds) for _, bracket, number, seconds in sorted(known, key=itemgetter(0)))
    left = [[len(step.known) for step in steps] for steps in brackets]
    reached = [0] * len(brackets)
    ends, now = list[tuple[float, int, int]](), 0.0

    def climb(bracket: int) -> None:
        """Let the next trials of a bracket wait before all others once nothing below them is left."""
        while not any(left[bracket][: reached[bracket] + 1]) and reached[bracket] < len(left[bracket]) - 1:
            reached[bracket] += 1
            coming = brackets[bracket][reached[bracket]].coming
            left[bracket][reached[bracket]] += len(coming)
            waiting.extendleft((bracket, reached[bracket], seconds) for seconds in coming)

    for bracket in range(len(brackets)):
        climb(bracket)
    while waiting or ends:
        while waiting and len(ends) < slots:
            bracket, number, seconds = waiting.popleft()
            heapq.heappush(ends, (now + seconds, bracket, number))
        now, bracket, number = heapq.heappop(ends)
        left[bracket][number] -= 1
        climb(bracket)
    return now
