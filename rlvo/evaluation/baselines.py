"""The baselines to beat, models of encoded predictors alone: logistic regressions (section 2.4) and boosted trees."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

PENALTY = 0.03
"""scikit-learn's C of `fit_ridge`. Fixed: a penalty that is tuned on few patients does worse (Šinkovec et al. 2021)."""


@dataclass(frozen=True)
class LogisticBaseline:
    """p = 1 / (1 + exp(−(x · coefficients + intercept)))."""

    coefficients: np.ndarray
    """[T]"""
    intercept: float

    def logit(self, x: np.ndarray) -> np.ndarray:
        """Log-odds [N] of encoded patients [N, T]; a patient's do not depend on the other rows."""
        # Summed row by row: a matrix product rounds a row differently by what stands beside it.
        return np.asarray((np.ascontiguousarray(x, np.float64) * self.coefficients).sum(axis=1) + self.intercept)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Probabilities [N], likewise."""
        return np.asarray(0.5 * (1 + np.tanh(self.logit(x) / 2)))  # the logistic function, without overflow


@dataclass(frozen=True)
class BoostedBaseline:
    """Gradient-boosted trees."""

    trees: HistGradientBoostingClassifier

    def predict(self, x: np.ndarray) -> np.ndarray:
        """As `LogisticBaseline.predict`."""
        with _one_thread():
            return np.asarray(self.trees.predict_proba(np.asarray(x, np.float64))[:, 1])


BaselineModel = LogisticBaseline | BoostedBaseline


def fit_logistic(x: np.ndarray, y: ArrayLike) -> LogisticBaseline:
    """Fit by maximum likelihood, without regularisation, to encoded patients [N, T] and labels [N].

    Raises:
        ValueError: one class only.
    """
    regression = LogisticRegression(C=np.inf, solver="newton-cg", tol=1e-6, max_iter=1000)
    fit = regression.fit(np.asarray(x, np.float64), _both_classes(y))
    return LogisticBaseline(fit.coef_[0], float(fit.intercept_[0]))


def fit_ridge(x: np.ndarray, y: ArrayLike) -> LogisticBaseline:
    """Fit by penalised likelihood to standardised predictors, which suits few patients; as `fit_logistic` otherwise.

    The penalty is the same for every predictor, whatever its unit; that of 0/1 columns depends on their prevalence.
    """
    x = np.asarray(x, np.float64)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    regression = LogisticRegression(C=PENALTY, solver="newton-cg", tol=1e-6, max_iter=1000)
    fit = regression.fit((x - mean) / spread, _both_classes(y))
    coefficients = fit.coef_[0] / spread
    return LogisticBaseline(coefficients, float(fit.intercept_[0] - coefficients @ mean))


def fit_boosting(x: np.ndarray, y: ArrayLike) -> BoostedBaseline:
    """Fit small, slowly learning trees, made for some hundred patients; arguments and errors as for `fit_logistic`.

    Their number is fixed: early stopping would take a validation set of its own from the training patients.
    """
    trees = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=100, max_leaf_nodes=8, l2_regularization=1.0, early_stopping=False, random_state=0
    )
    with _one_thread():
        return BoostedBaseline(trees.fit(np.asarray(x, np.float64), _both_classes(y)))


def intercept_of(logits: np.ndarray, prevalence: float) -> float:
    """What has to be added to log-odds [N] for a mean probability of `prevalence`."""
    low, high = logit(prevalence) - logits.max(), logit(prevalence) - logits.min()
    return float(brentq(lambda intercept: expit(logits + intercept).mean() - prevalence, low - 1, high + 1))


def _both_classes(y: ArrayLike) -> np.ndarray:
    labels = np.asarray(y)
    if len(np.unique(labels)) < 2:
        raise ValueError("a baseline needs patients of both classes")
    return labels


def _one_thread() -> threadpool_limits:
    """With some hundred patients threads wait for each other, for seconds if the machine is busy."""
    return threadpool_limits(1, user_api="openmp")
