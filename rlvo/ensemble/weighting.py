"""Combine the probabilities of several members into one score."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit

from rlvo.config.base import Frozen
from rlvo.ensemble.calibration import log_odds

Weighting = Literal["class_rates", "balanced_accuracy", "mean", "youden", "stacked"]
RIDGE = 1.0
"""Penalty of `fit_stack`, fixed: in small data a penalty that is tuned does worse (Šinkovec et al. 2021, BMC Med Res
Methodol 21:199)."""


class Stack(Frozen):
    """A logistic regression on the members' log-odds: a score within 0–1."""

    intercept: float
    slopes: tuple[float, ...]
    """One per member, at least 0."""

    def score(self, probabilities: ArrayLike) -> np.ndarray:
        """Combine probabilities [M, N] into scores [N]."""
        return np.asarray(expit(self.intercept + _weighted_sum(self.slopes, log_odds(probabilities))))


def fit_stack(y_true: ArrayLike, probabilities: ArrayLike, usable: ArrayLike) -> Stack:
    """Fit a ridge regression that is drawn towards equal slopes 1/M, none of which is negative (Breiman 1996).

    Args:
        y_true: 0 or 1 [N].
        probabilities: [M, N], one row per member.
        usable: [M] bool; the slopes of the others are 0.
    """
    label, z = np.asarray(y_true, float), log_odds(probabilities)
    counted = np.asarray(usable, bool)
    equal = counted / max(counted.sum(), 1)

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        score, away = at[0] + at[1:] @ z, at[1:] - equal
        residual = expit(score) - label
        value = np.sum(np.logaddexp(0, score) - label * score) + RIDGE / 2 * np.sum(away**2)
        return float(value), np.concatenate([[residual.sum()], z @ residual + RIDGE * away])

    bounds = [(None, None), *((0.0, None if each else 0.0) for each in counted)]
    found = minimize(loss, np.concatenate([[0.0], equal]), jac=True, bounds=bounds, method="L-BFGS-B").x.tolist()
    return Stack(intercept=found[0], slopes=tuple(found[1:]))


def class_rate_weighted(probabilities: ArrayLike, tpr: ArrayLike, tnr: ArrayLike) -> np.ndarray:
    """Σ TPRₘpₘ / (Σ TPRₘpₘ + Σ TNRₘ(1−pₘ)): members count for a class as far as they find it (paper, section 2.4).

    Args:
        probabilities: [M, N], one row per member.
        tpr: [M], each member's true positive rate on its validation patients.
        tnr: [M], each member's true negative rate.

    Returns:
        Scores [N], within 0–1; 0.5 for 0/0, which `undecided` reports.
    """
    support, opposition = _class_sums(probabilities, tpr, tnr)
    total = support + opposition
    return np.asarray(np.divide(support, total, out=np.full_like(support, 0.5), where=total != 0))


def undecided(probabilities: ArrayLike, tpr: ArrayLike, tnr: ArrayLike) -> np.ndarray:
    """Whether `class_rate_weighted` is 0/0 and returns 0.5 without evidence: bool [N]."""
    support, opposition = _class_sums(probabilities, tpr, tnr)
    return np.asarray(support + opposition == 0)


def combine(weighting: Weighting, probabilities: ArrayLike, tpr: ArrayLike, tnr: ArrayLike) -> np.ndarray:
    """Combine member probabilities [M, N] into scores [N] by one of the study's weightings.

    `class_rates`: see `class_rate_weighted`. `balanced_accuracy`: the members' mean, weighted by (TPR + TNR)/2, or
    unweighted if all weights are 0. `mean`: the unweighted mean. `youden`: the mean of their log-odds, weighted by
    TPR + TNR − 1, as a probability.

    Raises:
        ValueError: for `stacked`, whose slopes are not rates (`Stack`).
    """
    if weighting == "stacked":
        raise ValueError("a stack has slopes of its own")
    if weighting == "class_rates":
        return class_rate_weighted(probabilities, tpr, tnr)
    if weighting == "youden":
        j = np.maximum(np.asarray(tpr, float) + np.asarray(tnr, float) - 1, 0)
        weights = j / j.sum() if j.any() else np.full(len(j), 1 / len(j))
        return np.asarray(expit(_weighted_sum(weights, log_odds(probabilities))))
    weights = (np.asarray(tpr, float) + np.asarray(tnr, float)) / 2
    if weighting == "mean" or not weights.any():
        return np.asarray(np.mean(np.asarray(probabilities, float), axis=0))
    return np.asarray(np.average(np.asarray(probabilities, float), axis=0, weights=weights))


def _class_sums(probabilities: ArrayLike, tpr: ArrayLike, tnr: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p = np.asarray(probabilities, float)
    return _weighted_sum(tpr, p), _weighted_sum(tnr, 1 - p)


def _weighted_sum(weights: ArrayLike, rows: np.ndarray) -> np.ndarray:
    """Not a matrix product: BLAS rounds a patient's score differently by its position, and a threshold is exactly the
    score of one patient."""
    return np.asarray(np.sum(np.asarray(weights, float)[:, None] * rows, axis=0))
