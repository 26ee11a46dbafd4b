"""Who continues: the verdicts on configurations that are compared with one another in a search by halving."""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlvo.search.halving import Contender, Rung


@dataclass(frozen=True)
class Verdict:
    """Where a configuration goes."""

    rung: int
    """The rung it trains for, or that it was pruned at."""
    pruned: str | None = None
    """Why it is pruned."""


class Bracket:
    """The configurations that are compared with one another, and how far each may climb.

    What is known of them is kept packed, and looked at as a whole whenever one of them has news: to look up 400, each
    somewhere in memory, takes up to 10 ms if memory is slow, and no trial is answered meanwhile.

    Args:
        contenders: those proposed so far, in that order; the first of equals continues. `add` takes more.
        rungs: from `ladder`; there is no comparison at the last.
        reduction_factor: η; of n that start for a rung, n/η (rounded up) continue.
    """

    def __init__(self, contenders: Sequence[Contender], rungs: Sequence[Rung], reduction_factor: int) -> None:
        self._rungs, self._factor, self._is_complete = rungs, reduction_factor, False
        self._contenders: list[Contender] = []
        self._numbers: dict[str, int] = {}
        # by number, as of their last news; of the values one for each rung, NaN if it has not arrived
        self._values, self._passed = array("d"), array("q")
        self._is_pruned, self._has_ended = array("b"), array("b")
        self._heights = np.zeros(0, int)
        """The verdicts so far: the rung each may train for, or −1 − the rung it is pruned at."""
        for contender in contenders:
            self.add(contender)

    def add(self, contender: Contender) -> None:
        """Take up one more, before anyone is judged."""
        self._numbers[contender.key] = len(self._contenders)
        self._contenders.append(contender)
        self._values.extend([math.nan] * (len(self._rungs) - 1))
        for known in (self._passed, self._is_pruned, self._has_ended):
            known.append(0)
        self._read(contender)

    def judge(self) -> dict[str, Verdict]:
        """Once nobody is added any more: what is certain of every contender, by key, in the order of proposal."""
        self._is_complete = True
        self._heights = np.zeros(len(self._contenders), int)
        self._heights, reasons = self._compare()
        return self._verdicts(range(len(self._contenders)), reasons)

    def update(self, contender: Contender) -> dict[str, Verdict]:
        """What one contender's news makes certain that was not before; before `judge`, nothing."""
        self._read(contender)
        if not self._is_complete:
            return {}
        known = self._heights
        self._heights, reasons = self._compare()
        return self._verdicts(np.flatnonzero(self._heights != known).tolist(), reasons)

    def _read(self, contender: Contender) -> None:
        number, width = self._numbers[contender.key], len(self._rungs) - 1
        values = array("d", [*contender.values, *[math.nan] * width][:width])
        self._values[number * width : (number + 1) * width] = values
        self._passed[number], self._is_pruned[number] = contender.passed, contender.is_pruned
        self._has_ended[number] = contender.has_ended

    def _compare(self) -> tuple[NDArray[np.int_], list[str]]:
        """The heights that are certain, and by rung why those that do not continue from it are pruned."""
        values = np.frombuffer(self._values).reshape(-1, len(self._rungs) - 1)
        passed = np.maximum(np.frombuffer(self._passed, int), self._heights)
        is_pruned, has_ended = np.frombuffer(self._is_pruned, bool), np.frombuffer(self._has_ended, bool)
        heights, reasons = np.zeros(len(values), int), []
        starters = np.arange(len(values))
        for rung in range(len(self._rungs) - 1):
            keep = math.ceil(len(starters) / self._factor)
            reasons.append(self._reason(self._rungs[rung], keep, len(starters)))
            has_arrived = ~np.isnan(values[starters, rung])
            coming = np.count_nonzero(~has_arrived & ~has_ended[starters])
            arrived = starters[has_arrived]
            best = arrived[np.argsort(-values[arrived, rung], kind="stable")]
            place, is_past = np.arange(len(best)), passed[best] > rung
            is_free = ~is_pruned[best] | is_past
            is_past |= place + coming < keep
            heights[best[is_free & ~is_past & (place >= keep)]] = -1 - rung
            starters = np.sort(best[is_free & is_past])
            heights[starters] = rung + 1
            if coming:
                break
        return heights, reasons

    def _reason(self, rung: Rung, keep: int, starting: int) -> str:
        counts = f"{keep} of {starting} configurations went on and were better"
        return f"after {rung.epochs} epochs on {rung.folds} folds, {counts}"

    def _verdicts(self, numbers: Iterable[int], reasons: Sequence[str]) -> dict[str, Verdict]:
        heights = self._heights.tolist()
        climbing = {rung: Verdict(rung) for rung in range(len(self._rungs))}
        verdicts = climbing | {-1 - rung: Verdict(rung, reason) for rung, reason in enumerate(reasons)}
        return {self._contenders[number].key: verdicts[heights[number]] for number in numbers}
