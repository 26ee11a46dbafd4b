"""Which patients are included: the exclusions of the cohort flow (section 2.2, Fig. 1), in their order."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from rlvo.cohort.pseudonym import pseudonym
from rlvo.cohort.variables import CTP, source_columns

MAX_CTP_MISSING = 3
CTP_MISSING = f"more than {MAX_CTP_MISSING} CTP variables missing"
REFUSED = "volumes unreadable or registration failed"
UNLABELLED = "recovered, but without an outcome"


@dataclass(frozen=True)
class Exclusion:
    """A rule and the patients it removed; each patient is removed by the first rule that applies."""

    rule: str
    patients: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """The cohort flow: every rule that was applied, in order, and the patients who remain."""

    included: tuple[str, ...]
    excluded: tuple[Exclusion, ...]

    @property
    def considered(self) -> int:
        """Number of patients in the table."""
        return len(self.included) + sum(len(exclusion.patients) for exclusion in self.excluded)

    def without(self, refused: Collection[str], rule: str = REFUSED) -> "Selection":
        """Exclude more patients, by default those whose volumes are refused: in Fig. 1 before the CTP rule."""
        if not refused:
            return self
        before_ctp = (i for i, each in enumerate(self.excluded) if each.rule == CTP_MISSING and rule == REFUSED)
        place = next(before_ctp, len(self.excluded))
        exclusion = Exclusion(rule, tuple(patient for patient in self.included if patient in refused))
        return Selection(
            tuple(patient for patient in self.included if patient not in refused),
            (*self.excluded[:place], exclusion, *self.excluded[place:]),
        )


@dataclass(frozen=True)
class FlowStep:
    """A box of the flow chart: a rule, how many patients it excluded, and how many remained after it."""

    rule: str
    excluded: int
    remaining: int
    pseudonyms: tuple[str, ...]
    """Of the excluded patients; ids never appear in a chart."""


def flow(selection: Selection, key: bytes | None = None) -> tuple[FlowStep, ...]:
    """Return the steps of the flow chart (Fig. 1), in order.

    Args:
        selection: the cohort flow.
        key: the cohort's (`rlvo.cohort.pseudonym`); None: nobody is named, not even by a pseudonym.
    """
    steps, remaining = [], selection.considered
    for exclusion in selection.excluded:
        remaining -= len(exclusion.patients)
        pseudonyms = () if key is None else tuple(pseudonym(patient, key) for patient in exclusion.patients)
        steps.append(FlowStep(exclusion.rule, len(exclusion.patients), remaining, pseudonyms))
    return tuple(steps)


def select_patients(table: pd.DataFrame, predictors: Sequence[str], *, only_theirs: bool = False) -> Selection:
    """Apply the exclusions that the table has columns for.

    Args:
        table: checked rows, indexed by patient id; imaging rules apply if it names NCCT and CTA.
        predictors: what models are given; the CTP rule applies if a CTP variable is among them (section 3.2).
        only_theirs: the CTP rule counts only the CTP variables among the predictors, and excludes whom more than half
            of them are missing for, as three are half of all six.
    """
    remaining = pd.Series(True, index=table.index)
    excluded = []
    for rule, applies in _rules(table, predictors, only_theirs):
        excluded.append(Exclusion(rule, tuple(table.index[remaining & applies])))
        remaining &= ~applies
    return Selection(tuple(table.index[remaining]), tuple(excluded))


def _rules(table: pd.DataFrame, predictors: Sequence[str], only_theirs: bool) -> Iterator[tuple[str, pd.Series]]:
    if "dsa_occlusion" in table:
        yield "no occlusion on DSA", table["dsa_occlusion"] == 0
    if "synchronous_occlusions" in table:
        yield "synchronous occlusions", table["synchronous_occlusions"] == 1
    has_volumes = {"ncct", "cta"} <= set(table)
    if has_volumes and "severe_artifact" in table:
        yield "severe artefacts", table["severe_artifact"] == 1
    if has_volumes:
        yield "NCCT or CTA missing", table[["ncct", "cta"]].isna().any(axis=1)
    if own := [name for name in CTP if name in predictors]:
        sources = {name: list(source_columns([name])) for name in (own if only_theirs else CTP)}
        missing = [table[columns].isna().any(axis=1) for columns in sources.values() if set(columns) <= set(table)]
        count = sum(missing, start=pd.Series(0, index=table.index))
        if len(sources) < len(CTP):
            yield f"more than half of {len(sources)} CTP variables missing", count > len(sources) / 2
        else:
            yield CTP_MISSING, count > MAX_CTP_MISSING
