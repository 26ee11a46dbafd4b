"""Logistic regression on encoded predictors: the baseline to beat (section 2.4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression

from rlvo.errors import RlvoError


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


def fit_logistic(x: np.ndarray, y: ArrayLike) -> LogisticBaseline:
    """Maximum likelihood, without regularisation, on encoded patients [N, T] and labels [N].

    Raises:
        RlvoError: one class only.
    """
    labels = np.asarray(y)
    if len(np.unique(labels)) < 2:
        raise RlvoError("logistic regression needs patients of both classes", where="label")
    fit = LogisticRegression(C=np.inf, solver="newton-cg", tol=1e-6, max_iter=1000).fit(
        np.asarray(x, np.float64), labels
    )
    return LogisticBaseline(fit.coef_[0], float(fit.intercept_[0]))
