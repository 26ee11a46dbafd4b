"""Do two models differ on the same patients, or one model between groups of patients?

McNemar's test compares two models' decisions, DeLong's their scores; DeLong's variances compare AUCs between groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom, chi2, norm, rankdata

from rlvo.evaluation.metrics import labels_and_scores

McNemarMethod = Literal["exact", "chi2", "chi2_corrected", "mid_p"]


@dataclass(frozen=True)
class McNemarResult:
    """`only_a`, `only_b`: patients that only a, only b gets right. `statistic`: χ², or the smaller of the two."""

    statistic: float
    p_value: float
    only_a: int
    only_b: int


@dataclass(frozen=True)
class DeLongResult:
    """`statistic` is normal if the AUCs are equal, above 0 if a is better; `p_value` is two-sided."""

    statistic: float
    p_value: float
    auc_a: float
    auc_b: float
    standard_error: float
    """Of auc_a − auc_b."""


def mcnemar(y_true: ArrayLike, pred_a: ArrayLike, pred_b: ArrayLike, method: McNemarMethod = "exact") -> McNemarResult:
    """McNemar's two-sided test of 0/1 decisions of two models.

    `exact`: binomial over the discordant patients. `mid_p`: the same, but outcomes as likely as the observed one count
    half (Fagerland et al. 2013). `chi2`: (b−c)²/(b+c), the paper's form. `chi2_corrected`: (|b−c|−1)²/(b+c) (Edwards
    1948). Without discordant patients the statistic is 0 and p is 1.

    Raises:
        ValueError: decisions other than 0 and 1, or an unknown method.
    """
    labels, a, b = labels_and_scores(y_true, pred_a, pred_b)
    if not np.isin([a, b], (0, 1)).all():
        raise ValueError("decisions must be 0 or 1, one per patient")
    right_a, right_b = a == labels, b == labels
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    smaller, total = min(only_a, only_b), only_a + only_b
    if method in ("exact", "mid_p"):
        statistic, point = float(smaller), binom.pmf(smaller, total, 0.5)
        p_value = min(1.0, 2 * binom.cdf(smaller, total, 0.5))
        if method == "mid_p" and total:
            # At a tie the observed outcome is the only one as likely as itself; otherwise its mirror image is another.
            p_value -= point / 2 if only_a == only_b else point
    elif method in ("chi2", "chi2_corrected"):
        difference = abs(only_a - only_b) - (method == "chi2_corrected")
        statistic = difference**2 / total if total else 0.0
        p_value = chi2.sf(statistic, 1)
    else:
        raise ValueError(f"unknown McNemar test '{method}': use exact, chi2, chi2_corrected or mid_p")
    return McNemarResult(statistic, float(p_value), only_a, only_b)


def delong(y_true: ArrayLike, score_a: ArrayLike, score_b: ArrayLike) -> DeLongResult:
    """DeLong's test of two correlated AUCs, by midranks (DeLong et al. 1988; Sun & Xu 2014, eq. 5–9).

    If the difference has no variance (say, both rank alike), the statistic is 0 and p is 1 for equal AUCs, ±inf and 0
    for unequal ones.

    Raises:
        ValueError: fewer than two patients of a class.
    """
    labels, a, b = labels_and_scores(y_true, score_a, score_b)
    if min(labels.sum(), (~labels).sum()) < 2:
        raise ValueError("DeLong's test needs two patients of each class")
    (positives_a, negatives_a), (positives_b, negatives_b) = _components(labels, a), _components(labels, b)
    auc_a, auc_b = float(positives_a.mean()), float(positives_b.mean())
    difference = float(np.mean(positives_a - positives_b))
    variance = sum(np.var(d, ddof=1) / len(d) for d in (positives_a - positives_b, negatives_a - negatives_b))
    standard_error = float(np.sqrt(variance))
    if standard_error > 0:
        statistic = difference / standard_error
    else:
        statistic = 0.0 if difference == 0 else float(np.copysign(np.inf, difference))
    return DeLongResult(statistic, float(2 * norm.sf(abs(statistic))), auc_a, auc_b, standard_error)


def equal_aucs(y_true: ArrayLike, score: ArrayLike, groups: Sequence[ArrayLike]) -> float:
    """Test if one score has the same AUC in K groups of patients: p of χ² on K − 1 degrees with DeLong's variances.

    The groups' positives are distinct patients; their negatives are distinct too, or the same in every group. For two
    groups this is the two-sided z test of two AUCs. NaN if there are fewer than two groups or a difference has no
    variance.

    Args:
        groups: a mask [N] per group.

    Raises:
        ValueError: fewer than two patients of a class in a group.
    """
    labels, scores = labels_and_scores(y_true, score)
    masks = [np.asarray(group, bool) for group in groups]
    if any(min((labels & mask).sum(), (~labels & mask).sum()) < 2 for mask in masks):
        raise ValueError("an AUC's variance needs two patients of each class in every group")
    if len(masks) < 2:
        return float("nan")
    below, above = zip(*(_components(labels[mask], scores[mask]) for mask in masks), strict=True)
    aucs = np.array([own.mean() for own in below])
    covariance = np.diag([np.var(own, ddof=1) / len(own) for own in below])
    if all(np.array_equal(~labels & mask, ~labels & masks[0]) for mask in masks):
        covariance = covariance + np.cov(above) / len(above[0])
    else:
        covariance = covariance + np.diag([np.var(own, ddof=1) / len(own) for own in above])
    contrasts = np.diff(np.eye(len(masks)), axis=0)
    of_differences = contrasts @ covariance @ contrasts.T
    if np.linalg.matrix_rank(of_differences) < len(contrasts):
        return float("nan")
    differences = contrasts @ aucs
    return float(chi2.sf(differences @ np.linalg.solve(of_differences, differences), len(contrasts)))


def _components(labels: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Structural components: each positive's share of negatives below it, each negative's share of positives above it.

    A tie counts half. Midranks among all patients less midranks within the class count them in O(N log N).
    """
    ranks = rankdata(score)
    positives, negatives = score[labels], score[~labels]
    below = (ranks[labels] - rankdata(positives)) / len(negatives)
    above = 1 - (ranks[~labels] - rankdata(negatives)) / len(positives)
    return below, above
