"""Decision thresholds: positive where `score >= threshold`."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_curve

from rlvo.errors import RlvoError
from rlvo.evaluation.checks import labels_and_scores


def youden_threshold(y_true: ArrayLike, score: ArrayLike) -> float:
    """The threshold at the first maximum of Youden's J = TPR − FPR along the ROC curve, thresholds descending.

    Always finite: where no threshold is better than chance it is the next float above the largest score, so that
    nobody is positive (see `better_than_chance`).

    Raises:
        RlvoError: one class only.
    """
    threshold = _first_maximum(y_true, score)
    return float(threshold if np.isfinite(threshold) else np.nextafter(np.max(np.asarray(score, np.float64)), np.inf))


def better_than_chance(y_true: ArrayLike, score: ArrayLike) -> bool:
    """Whether any threshold has J above 0. Raises RlvoError with one class only."""
    return bool(np.isfinite(_first_maximum(y_true, score)))


def _first_maximum(y_true: ArrayLike, score: ArrayLike) -> float:
    """As scikit-learn's curve gives it: inf where nobody positive is as good as any threshold."""
    labels, scores = labels_and_scores(y_true, score)
    if labels.all() or not labels.any():
        raise RlvoError("a threshold needs patients of both classes", where="y_true")
    false_positive_rate, true_positive_rate, thresholds = roc_curve(labels, scores)
    return float(thresholds[np.argmax(true_positive_rate - false_positive_rate)])
