"""Models of encoded predictors alone, the baselines to beat: logistic regression (section 2.4) and boosted trees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from rlvo.errors import RlvoError


class BaselineModel(Protocol):
    """A fitted baseline."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Probabilities [N] of encoded patients [N, T]; a patient's does not depend on who else is asked about."""


@dataclass(frozen=True)
class LogisticBaseline:
    """p = 1 / (1 + exp(−(x · coefficients + intercept)))."""

    coefficients: np.ndarray
    """[T]"""
    intercept: float

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Probabilities [N] of encoded patients [N, T]."""
        # Summed row by row, not as a matrix product: a patient's answer does not depend on who else is asked about.
        logit = (np.ascontiguousarray(x, np.float64) * self.coefficients).sum(axis=1) + self.intercept
        return 0.5 * (1 + np.tanh(logit / 2))  # the logistic function, without overflow


@dataclass(frozen=True)
class BoostedBaseline:
    """Gradient-boosted trees."""

    trees: HistGradientBoostingClassifier

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Probabilities [N] of encoded patients [N, T]."""
        with _one_thread():
            return self.trees.predict_proba(np.asarray(x, np.float64))[:, 1]


def fit_logistic(x: np.ndarray, y: ArrayLike) -> LogisticBaseline:
    """Maximum likelihood, without regularisation, on encoded patients [N, T] and labels [N].

    Raises:
        RlvoError: one class only.
    """
    labels = _both_classes(y, "logistic regression")
    fit = LogisticRegression(C=np.inf, solver="newton-cg", tol=1e-6, max_iter=1000).fit(
        np.asarray(x, np.float64), labels
    )
    return LogisticBaseline(fit.coef_[0], float(fit.intercept_[0]))


def fit_boosting(x: np.ndarray, y: ArrayLike) -> BoostedBaseline:
    """Boosted trees on encoded patients [N, T] and labels [N]: small and slow, for some hundred patients.

    A fixed number of trees: early stopping would take its own validation set from the training patients.

    Raises:
        RlvoError: one class only.
    """
    trees = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=100, max_leaf_nodes=8, l2_regularization=1.0, early_stopping=False, random_state=0
    )
    labels = _both_classes(y, "boosting")
    with _one_thread():
        return BoostedBaseline(trees.fit(np.asarray(x, np.float64), labels))


def _one_thread() -> threadpool_limits:
    """On some hundred patients threads wait for each other, for seconds where the machine is busy."""
    return threadpool_limits(1, user_api="openmp")


def _both_classes(y: ArrayLike, method: str) -> np.ndarray:
    labels = np.asarray(y)
    if len(np.unique(labels)) < 2:
        raise RlvoError(f"{method} needs patients of both classes", where="label")
    return labels
