"""Combine the probabilities of several members into one score."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Weighting = Literal["class_rates", "balanced_accuracy", "mean"]


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
    unweighted if all weights are 0. `mean`: the unweighted mean.
    """
    if weighting == "class_rates":
        return class_rate_weighted(probabilities, tpr, tnr)
    weights = (np.asarray(tpr, float) + np.asarray(tnr, float)) / 2
    if weighting == "mean" or not weights.any():
        return np.asarray(np.mean(np.asarray(probabilities, float), axis=0))
    return np.asarray(np.average(np.asarray(probabilities, float), axis=0, weights=weights))


def _class_sums(probabilities: ArrayLike, tpr: ArrayLike, tnr: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p = np.asarray(probabilities, float)
    # Sums, not matrix products: BLAS rounds a patient's score differently by its position, and a threshold is exactly
    # the score of one patient.
    support = np.sum(np.asarray(tpr, float)[:, None] * p, axis=0)
    return support, np.sum(np.asarray(tnr, float)[:, None] * (1 - p), axis=0)
