"""Who is included: the exclusions of the cohort flow (section 2.2, Fig. 1), in their order."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from rlvo.cohort.pseudonym import pseudonym
from rlvo.cohort.variables import CTP, columns_of

if TYPE_CHECKING:
    from rlvo.cohort.reading import Cohort

MAX_CTP_MISSING = 3
REFUSED = "volumes unreadable or registration failed"


@dataclass(frozen=True)
class Exclusion:
    """A rule and the patients it removed; each patient is removed by the first rule that applies."""

    rule: str
    patients: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """The cohort flow: every rule that was applied, in order, and who remains."""

    included: tuple[str, ...]
    excluded: tuple[Exclusion, ...]

    @property
    def considered(self) -> int:
        """How many patients the table has."""
        return len(self.included) + sum(len(exclusion.patients) for exclusion in self.excluded)


@dataclass(frozen=True)
class FlowStep:
    """A box of the flow chart: a rule, how many patients it excluded, and how many remained after it."""

    rule: str
    excluded: int
    remaining: int
    pseudonyms: tuple[str, ...]
    """Of the excluded patients; ids never reach a chart."""


def flow(selection: Selection, key: bytes) -> tuple[FlowStep, ...]:
    """The steps of the flow chart (Fig. 1), in order; `key` is the cohort's (`rlvo.cohort.pseudonym`)."""
    steps, remaining = [], selection.considered
    for exclusion in selection.excluded:
        remaining -= len(exclusion.patients)
        pseudonyms = tuple(pseudonym(patient, key) for patient in exclusion.patients)
        steps.append(FlowStep(exclusion.rule, len(pseudonyms), remaining, pseudonyms))
    return tuple(steps)


def select(cohort: Cohort, predictors: Sequence[str], *, refused: Collection[str] = ()) -> Selection:
    """Apply the exclusions that the table has columns for; imaging rules need volumes, the CTP rule CTP predictors.

    Args:
        cohort: the checked cohort.
        predictors: what models are given; without a CTP variable, patients who lack CTP values stay (section 3.2).
        refused: patients whose volumes cannot be read or registered, where that was tried.
    """
    return select_rows(cohort.table, predictors, refused=refused)


def select_rows(table: pd.DataFrame, predictors: Sequence[str], *, refused: Collection[str] = ()) -> Selection:
    """As `select`, on a checked table."""
    remaining = pd.Series(True, index=table.index)
    excluded = []
    for rule, applies in _rules(table, predictors, refused):
        removed = remaining & applies
        excluded.append(Exclusion(rule, tuple(table.index[removed])))
        remaining &= ~applies
    return Selection(tuple(table.index[remaining]), tuple(excluded))


def _rules(table: pd.DataFrame, predictors: Sequence[str], refused: Collection[str]) -> Iterator[tuple[str, pd.Series]]:
    if "dsa_occlusion" in table:
        yield "no occlusion on DSA", table["dsa_occlusion"] == 0
    if "synchronous_occlusions" in table:
        yield "synchronous occlusions", table["synchronous_occlusions"] == 1
    has_volumes = {"ncct", "cta"} <= set(table)
    if has_volumes and "severe_artifact" in table:
        yield "severe artefacts", table["severe_artifact"] == 1
    if has_volumes:
        yield "NCCT or CTA missing", table[["ncct", "cta"]].isna().any(axis=1)
    if refused:
        yield REFUSED, pd.Series(table.index.isin(list(refused)), index=table.index)
    if set(predictors) & set(CTP):
        collected = {name: list(columns_of(name)) for name in CTP if set(columns_of(name)) <= set(table)}
        missing = pd.DataFrame(
            {name: table[columns].isna().any(axis=1) for name, columns in collected.items()}, index=table.index
        )
        yield f"more than {MAX_CTP_MISSING} CTP variables missing", missing.sum(axis=1) > MAX_CTP_MISSING
