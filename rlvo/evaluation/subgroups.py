"""One model in groups of patients: its metrics with intervals and counts, and tests of whether they differ."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import chi2, fisher_exact

from rlvo.evaluation.comparison import equal_aucs
from rlvo.evaluation.metrics import labels_and_scores
from rlvo.evaluation.performance import estimate_metrics

FEW = 10
"""If a level has fewer patients of a class than this, tests say little: a note says so."""
REPORTED = ("auc", "sensitivity", "specificity")
"""Metrics of each level."""
COLUMNS = ("sex", "age", "occlusion_site", "center", "etiology")


@dataclass(frozen=True)
class SubgroupAnalysis:
    """One grouping of patients. NaN: not estimable. p-values are not corrected for the number of groupings analysed."""

    name: str
    levels: pd.DataFrame
    """One row per level: `level`, `patients`, `positives`, then each of `REPORTED` with its `_low` and `_high`
    (95 %)."""
    ungrouped: int
    """Patients without a level; they are left out."""
    auc_p: float
    """Of the test whether the levels' AUCs differ."""
    decision_p: float
    """Of the test whether decisions are equally telling in all levels."""
    notes: tuple[str, ...]
    """Why a test was not done or says little."""


def standard_groupings(table: pd.DataFrame, label: pd.Series) -> dict[str, pd.Series]:
    """Sex, age, occlusion site, center and etiology by name, as far as a checked cohort table has them.

    Age is cut at its median. Etiology counts as the cause of an rLVO (section 3.2): patients without one have no level.
    """
    known = table.assign(etiology=table["etiology"].where(label == 1)) if "etiology" in table else table
    found = {name: known[name] for name in COLUMNS if name in known and known[name].notna().any()}
    if "age" in found:
        median = float(found["age"].median())
        names = [f"< {median:g}", f"≥ {median:g}"]
        found["age"] = pd.cut(found["age"], [-np.inf, median, np.inf], right=False, labels=names)
    return found


def analyse_subgroups(
    name: str, level: pd.Series, y_true: ArrayLike, score: ArrayLike, vote: ArrayLike
) -> SubgroupAnalysis:
    """Measure a model in each level of one grouping, and test for interactions.

    AUCs are compared by `equal_aucs`; decisions by the likelihood ratio of logistic models of the label with and
    without the interaction of decision and level. If only positives have levels (etiology), each level's positives are
    set against all negatives, and Fisher's exact test compares the levels' sensitivities instead.

    Args:
        level: of N patients; NaN for none.
        y_true: 0 or 1 [N].
        score: on any monotone scale [N].
        vote: 0 or 1 [N].

    Raises:
        ValueError: no patient has a level, or labels, scores or votes are invalid.
    """
    labels, scores, votes = labels_and_scores(y_true, score, vote)
    if len(level) != len(labels) or level.isna().all():
        raise ValueError(f"no patient has a level of {name}")
    given = level.notna().to_numpy()
    of_positives = not (given & ~labels).any()
    names = level.astype("category").cat.categories
    members = {str(each): (level == each).to_numpy() for each in names if (level == each).any()}
    groups = {each: own | ~labels if of_positives else own for each, own in members.items()}
    rows: list[dict[str, object]] = []
    for each, own in members.items():
        rows.append({"level": each, "patients": int(own.sum()), "positives": int((own & labels).sum())})
        found = estimate_metrics(*(values[groups[each]] for values in (labels, scores, votes)))
        for metric in REPORTED:
            columns = (metric, f"{metric}_low", f"{metric}_high")
            rows[-1] |= dict(zip(columns, found.loc[metric], strict=True))
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
    return SubgroupAnalysis(
        name=name,
        levels=pd.DataFrame(rows),
        ungrouped=int((~given & labels).sum() if of_positives else (~given).sum()),
        auc_p=auc_p,
        decision_p=decision_p,
        notes=(*notes, *(note for note in (auc_note, decision_note) if note)),
    )


def _auc_test(labels: np.ndarray, scores: np.ndarray, groups: list[np.ndarray]) -> tuple[float, str]:
    if len(groups) < 2:
        return float("nan"), "there is one level only: nothing to compare"
    if any(min((own & labels).sum(), (own & ~labels).sum()) < 2 for own in groups):
        return float("nan"), "AUCs are not compared: a level has fewer than two patients of a class"
    p = equal_aucs(labels, scores, groups)
    return p, "AUCs are not compared: one of them has no variance" if np.isnan(p) else ""


def _sensitivity_test(decided: np.ndarray, members: list[np.ndarray]) -> tuple[float, str]:
    counts = np.array([[(own & decided).sum(), (own & ~decided).sum()] for own in members])
    if len(counts) != 2:
        return float("nan"), "sensitivities are not compared: there are not two levels"
    return float(fisher_exact(counts).pvalue), ""


def _decision_test(labels: np.ndarray, decided: np.ndarray, members: list[np.ndarray]) -> tuple[float, str]:
    """Test label ~ decision × level against label ~ decision + level by likelihood ratio; df = levels − 1."""
    import statsmodels.api as sm

    if len(members) < 2:
        return float("nan"), ""
    cells = [(own & (labels == y) & (decided == d)).sum() for own in members for y in (0, 1) for d in (0, 1)]
    if min(cells) == 0:
        return float("nan"), "decisions are not compared: a level lacks some combination of outcome and decision"
    rows = np.logical_or.reduce(members)
    level, decision = np.column_stack(members)[rows].astype(float), decided[rows, None].astype(float)
    additive, interacting = (
        sm.GLM(labels[rows].astype(float), np.column_stack([level, terms]), sm.families.Binomial()).fit().deviance
        for terms in (decision, decision * level)
    )
    return float(chi2.sf(max(0.0, additive - interacting), len(members) - 1)), ""
