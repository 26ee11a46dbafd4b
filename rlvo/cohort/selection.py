"""Who is included: the exclusions of the cohort flow (section 2.2, Fig. 1), in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from rlvo.cohort.variables import CTP, columns_of

if TYPE_CHECKING:
    from rlvo.cohort.reading import Cohort

MAX_CTP_MISSING = 3


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


def select(cohort: Cohort, predictors: Sequence[str]) -> Selection:
    """Apply the exclusions that the table has columns for; imaging rules need volumes, the CTP rule CTP predictors."""
    return select_rows(cohort.table, predictors)


def select_rows(table: pd.DataFrame, predictors: Sequence[str]) -> Selection:
    """As `select`, on a checked table."""
    remaining = pd.Series(True, index=table.index)
    excluded = []
    for rule, applies in _rules(table, predictors):
        removed = remaining & applies
        excluded.append(Exclusion(rule, tuple(table.index[removed])))
        remaining &= ~applies
    return Selection(tuple(table.index[remaining]), tuple(excluded))


def _rules(table: pd.DataFrame, predictors: Sequence[str]) -> Iterator[tuple[str, pd.Series]]:
    if "dsa_occlusion" in table:
        yield "no occlusion on DSA", table["dsa_occlusion"] == 0
    if "synchronous_occlusions" in table:
        yield "synchronous occlusions", table["synchronous_occlusions"] == 1
    has_volumes = {"ncct", "cta"} <= set(table)
    if has_volumes and "severe_artifact" in table:
        yield "severe artefacts", table["severe_artifact"] == 1
    if has_volumes:
        yield "NCCT or CTA missing", table[["ncct", "cta"]].isna().any(axis=1)
    if set(predictors) & set(CTP):
        collected = {name: list(columns_of(name)) for name in CTP if set(columns_of(name)) <= set(table)}
        missing = pd.DataFrame(
            {name: table[columns].isna().any(axis=1) for name, columns in collected.items()}, index=table.index
        )
        yield f"more than {MAX_CTP_MISSING} CTP variables missing", missing.sum(axis=1) > MAX_CTP_MISSING
