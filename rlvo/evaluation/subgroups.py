"""One model in groups of patients: its figures with intervals and counts, and tests of whether they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import chi2, fisher_exact

from rlvo.errors import RlvoError
from rlvo.evaluation.checks import labels_and_scores
from rlvo.evaluation.comparison import equal_aucs
from rlvo.evaluation.figures import estimates

FEW = 10
"""A class of fewer patients than this in a level makes a test say little; it is noted."""
SHOWN = ("auc", "sensitivity", "specificity")
COLUMNS = ("sex", "age", "occlusion_site", "center", "etiology")


@dataclass(frozen=True)
class Subgroup:
    """A grouping of patients. p-values are not corrected for the number of groupings looked at; NaN: not estimable."""

    name: str
    levels: pd.DataFrame
    """A row a level: `level`, `patients`, `positives`, then `auc`, `sensitivity` and `specificity` with `_low` and
    `_high` (95 %)."""
    ungrouped: int
    """Patients without a level, who are left out."""
    auc_p: float
    """Do the levels' AUCs differ?"""
    decision_p: float
    """Does what a decision says about the label differ between levels?"""
    notes: tuple[str, ...]
    """Why a test is not estimable or says little."""


def age_groups(age: pd.Series, cuts: Sequence[float] | None = None) -> pd.Series:
    """Levels `< a`, `a to < b`, …, `≥ z` of a numeric column, cut at its median unless `cuts` are given; NaN stays."""
    at = sorted(set(cuts)) if cuts else [float(age.median())]
    names = [
        f"< {at[0]:g}",
        *(f"{low:g} to < {high:g}" for low, high in pairwise(at)),
        f"≥ {at[-1]:g}",
    ]
    return pd.cut(age, [-np.inf, *at, np.inf], right=False, labels=names)


def standard_groupings(
    table: pd.DataFrame, label: pd.Series, *, age_cuts: Sequence[float] | None = None
) -> dict[str, pd.Series]:
    """Sex, age, occlusion site, center and etiology of a checked cohort table, those that it has, by name.

    Etiology is looked at as the cause of an rLVO (section 3.2): patients without one have no level.
    """
    known = table.assign(etiology=table["etiology"].where(label == 1)) if "etiology" in table else table
    found = {name: known[name] for name in COLUMNS if name in known and known[name].notna().any()}
    return found | ({"age": age_groups(table["age"], age_cuts)} if "age" in found else {})


def subgroup(name: str, level: pd.Series, y_true: ArrayLike, score: ArrayLike, vote: ArrayLike) -> Subgroup:
    """Figures of each level of one grouping, and the interaction tests.

    AUCs are compared by `equal_aucs`; decisions by the likelihood ratio of logistic models of the label with and
    without the interaction of decision and level. A grouping that only positives have (etiology) sets each level's
    positives against all negatives, and compares the levels' sensitivities by Fisher's exact test instead.

    Args:
        level: of N patients, NaN where there is none.
        y_true: 0 or 1 [N].
        score: any monotone scale [N].
        vote: 0 or 1 [N].

    Raises:
        RlvoError: nobody has a level; labels, scores or votes that cannot be.
    """
    labels, scores, votes = labels_and_scores(y_true, score, vote)
    if len(level) != len(labels) or level.isna().all():
        raise RlvoError("no level for these patients", where=f"subgroup {name}")
    given = level.notna().to_numpy()
    of_positives = not (given & ~labels).any()
    names = (
        list(level.cat.categories) if isinstance(level.dtype, pd.CategoricalDtype) else sorted(level[given].unique())
    )
    members = {str(each): (level == each).to_numpy() for each in names if (level == each).any()}
    groups = {each: own | ~labels if of_positives else own for each, own in members.items()}
    rows = [_row(each, members[each], labels, scores, votes, groups[each]) for each in members]
    notes = [
        f"{each}: only {count} {kind}"
        for each, own in groups.items()
        for kind, count in (("with rLVO", int((own & labels).sum())), ("without", int((own & ~labels).sum())))
        if count < FEW
    ]
    decided = votes == 1
    auc_p, auc_note = _auc_test(labels, scores, list(groups.values()))
    if of_positives:
        decision_p, decision_note = _sensitivity_test(decided, list(members.values()))
    else:
        decision_p, decision_note = _decision_test(labels, decided, list(members.values()))
    return Subgroup(
        name=name,
        levels=pd.DataFrame(rows),
        ungrouped=int((~given & labels).sum() if of_positives else (~given).sum()),
        auc_p=auc_p,
        decision_p=decision_p,
        notes=(*notes, *(note for note in (auc_note, decision_note) if note)),
    )


def _row(
    level: str, members: np.ndarray, labels: np.ndarray, scores: np.ndarray, votes: np.ndarray, group: np.ndarray
) -> dict[str, object]:
    found = estimates(labels[group], scores[group], votes[group])
    row: dict[str, object] = {
        "level": level,
        "patients": int(members.sum()),
        "positives": int((members & labels).sum()),
    }
    for metric in SHOWN:
        value, low, high = found.loc[metric]
        row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
    return row


def _auc_test(labels: np.ndarray, scores: np.ndarray, groups: list[np.ndarray]) -> tuple[float, str]:
    if len(groups) < 2:
        return float("nan"), "one level only: nothing to compare"
    if any(min((own & labels).sum(), (own & ~labels).sum()) < 2 for own in groups):
        return float("nan"), "AUCs are not compared: a level has fewer than two patients of a class"
    p = equal_aucs(labels, scores, groups)
    return p, "AUCs are not compared: one has no variance" if np.isnan(p) else ""


def _sensitivity_test(decided: np.ndarray, members: list[np.ndarray]) -> tuple[float, str]:
    counts = np.array([[(own & decided).sum(), (own & ~decided).sum()] for own in members])
    if len(counts) != 2:
        return float("nan"), "sensitivities are compared between two levels only"
    return float(fisher_exact(counts).pvalue), ""


def _decision_test(labels: np.ndarray, decided: np.ndarray, members: list[np.ndarray]) -> tuple[float, str]:
    """Likelihood ratio of label ~ decision × level against label ~ decision + level; df = levels − 1."""
    import statsmodels.api as sm

    if len(members) < 2:
        return float("nan"), ""
    cells = [(own & (labels == y) & (decided == d)).sum() for own in members for y in (0, 1) for d in (0, 1)]
    if min(cells) == 0:
        return float("nan"), "decisions are not compared: a level has no patient of some outcome and decision"
    rows = np.logical_or.reduce(members)
    level, decision = np.column_stack(members)[rows].astype(float), decided[rows, None].astype(float)
    additive, interacting = (
        sm.GLM(labels[rows].astype(float), np.column_stack([level, terms]), sm.families.Binomial()).fit().deviance
        for terms in (decision, decision * level)
    )
    return float(chi2.sf(max(0.0, additive - interacting), len(members) - 1)), ""
