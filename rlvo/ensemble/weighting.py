"""How the probabilities of several members become one score."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Weighting = Literal["class_rates", "balanced_accuracy", "mean"]


def class_rate_weighted(probabilities: ArrayLike, tpr: ArrayLike, tnr: ArrayLike) -> np.ndarray:
    """Σ TPRₘpₘ / (Σ TPRₘpₘ + Σ TNRₘ(1−pₘ)): each class is argued for by the members that find it (paper, section 2.4).

    Args:
        probabilities: [M, N], a row a member.
        tpr: [M], each member's true positive rate on its validation patients.
        tnr: [M], its true negative rate.

    Returns:
        [N], within 0–1; 0.5 where the weights leave nothing to divide (0/0), which `undecided` flags.
    """
    support, opposition = _class_sums(probabilities, tpr, tnr)
    total = support + opposition
    return np.divide(support, total, out=np.full_like(support, 0.5), where=total != 0)


def undecided(probabilities: ArrayLike, tpr: ArrayLike, tnr: ArrayLike) -> np.ndarray:
    """[N] bool: where `class_rate_weighted` is 0/0 and says 0.5 without any evidence."""
    support, opposition = _class_sums(probabilities, tpr, tnr)
    return support + opposition == 0


def balanced_accuracy_weighted(probabilities: ArrayLike, tpr: ArrayLike, tnr: ArrayLike) -> np.ndarray:
    """[N]: mean of the members' probabilities [M, N], weighted by (TPR + TNR)/2; a plain mean where all are 0."""
    weights = (np.asarray(tpr, float) + np.asarray(tnr, float)) / 2
    if not weights.any():
        weights = np.ones_like(weights)
    return np.average(np.asarray(probabilities, float), axis=0, weights=weights)


def combine(weighting: Weighting, probabilities: ArrayLike, tpr: ArrayLike, tnr: ArrayLike) -> np.ndarray:
    """The combined score [N] of member probabilities [M, N] under a weighting of the configuration."""
    match weighting:
        case "class_rates":
            return class_rate_weighted(probabilities, tpr, tnr)
        case "balanced_accuracy":
            return balanced_accuracy_weighted(probabilities, tpr, tnr)
        case "mean":
            return np.mean(np.asarray(probabilities, float), axis=0)


def _class_sums(probabilities: ArrayLike, tpr: ArrayLike, tnr: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    p = np.asarray(probabilities, float)
    # Sums, not matrix products: BLAS rounds a patient differently by its place among the others, and a threshold is
    # one patient's score exactly.
    support = np.sum(np.asarray(tpr, float)[:, None] * p, axis=0)
    return support, np.sum(np.asarray(tnr, float)[:, None] * (1 - p), axis=0)
