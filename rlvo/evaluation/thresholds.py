"""Decision thresholds: a patient is positive if `score >= threshold`."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_curve

from rlvo.evaluation.metrics import labels_and_scores


def youden_threshold(y_true: ArrayLike, score: ArrayLike) -> float:
    """The threshold at the first maximum of Youden's J = TPR − FPR along the ROC curve, thresholds descending.

    Always finite: if no threshold is better than chance, it is the next float above the largest score, so that no
    patient is positive (see `better_than_chance`).

    Raises:
        ValueError: one class only.
    """
    threshold = _first_maximum(y_true, score)
    return float(threshold if np.isfinite(threshold) else np.nextafter(np.max(np.asarray(score, np.float64)), np.inf))


def better_than_chance(y_true: ArrayLike, score: ArrayLike) -> bool:
    """Whether any threshold has J above 0. Raises ValueError if there is one class only."""
    return bool(np.isfinite(_first_maximum(y_true, score)))


def _first_maximum(y_true: ArrayLike, score: ArrayLike) -> float:
    """As in scikit-learn's curve: inf if calling no patient positive is as good as any threshold."""
    labels, scores = labels_and_scores(y_true, score)
    if labels.all() or not labels.any():
        raise ValueError("a threshold needs patients of both classes")
    false_positive_rate, true_positive_rate, thresholds = roc_curve(labels, scores)
    return float(thresholds[np.argmax(true_positive_rate - false_positive_rate)])
