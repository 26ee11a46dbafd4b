"""Do two models differ on the same patients? McNemar's test compares their decisions, DeLong's their scores."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom, chi2, norm

from rlvo.evaluation.metrics import auc_components, labels_and_scores

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
    """DeLong's test of two correlated AUCs, by midranks (DeLong et al. 1988).

    If the difference has no variance (say, both rank alike), the statistic is 0 and p is 1 for equal AUCs, ±inf and 0
    for unequal ones.

    Raises:
        ValueError: fewer than two patients of a class.
    """
    labels, a, b = labels_and_scores(y_true, score_a, score_b)
    if min(labels.sum(), (~labels).sum()) < 2:
        raise ValueError("DeLong's test needs two patients of each class")
    (positives_a, negatives_a), (positives_b, negatives_b) = auc_components(labels, a), auc_components(labels, b)
    auc_a, auc_b = float(positives_a.mean()), float(positives_b.mean())
    difference = float(np.mean(positives_a - positives_b))
    variance = sum(np.var(d, ddof=1) / len(d) for d in (positives_a - positives_b, negatives_a - negatives_b))
    standard_error = float(np.sqrt(variance))
    if standard_error > 0:
        statistic = difference / standard_error
    else:
        statistic = 0.0 if difference == 0 else float(np.copysign(np.inf, difference))
    return DeLongResult(statistic, float(2 * norm.sf(abs(statistic))), auc_a, auc_b, standard_error)
