"""Calibrators, which turn an ensemble's margin into a probability.

A calibrator is fitted to out-of-fold margins, which differ in two ways from those of new patients. Configurations,
weights and thresholds were chosen on these patients, so their margins separate the classes too well: the probabilities
become too extreme. And each is the margin of one fold, whereas a new patient's score is the mean over folds, which
varies less: the probabilities would stay too close to the prevalence. For that `margins_of_mean` corrects. Only the
hold-out shows the net effect.
"""

from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pydantic import Field, TypeAdapter
from scipy.optimize import brentq, minimize
from scipy.special import expit, logit

from rlvo.config.base import Frozen
from rlvo.evaluation.metrics import labels_and_scores

Method = Literal["platt", "isotonic"]
LIMIT = 1e-6
"""Probabilities are kept this far from 0 and 1."""


def log_odds(probabilities: ArrayLike) -> np.ndarray:
    """log(p/(1 − p)) of probabilities that are kept LIMIT from 0 and 1; NaN stays NaN."""
    return np.asarray(logit(np.clip(np.asarray(probabilities, float), LIMIT, 1 - LIMIT)))


class Platt(Frozen):
    """Logistic in the margin (Platt 1999)."""

    method: Literal["platt"] = "platt"
    slope: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Log-odds per unit of margin; 0 if the margin says nothing or points the wrong way."""
    intercept: Annotated[float, Field(allow_inf_nan=False)]

    def probability(self, margin: ArrayLike) -> np.ndarray:
        """Probabilities of rLVO [N], within (0, 1), never falling as the margin rises; NaN for a NaN margin."""
        log_odds = self.slope * np.asarray(margin, float) + self.intercept
        return np.asarray(np.clip(expit(log_odds), LIMIT, 1 - LIMIT))


class Isotonic(Frozen):
    """Monotone steps joined by lines (Zadrozny & Elkan 2002); constant beyond the first and last margin."""

    method: Literal["isotonic"] = "isotonic"
    margins: tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
    probabilities: tuple[Annotated[float, Field(gt=0, lt=1)], ...]

    def probability(self, margin: ArrayLike) -> np.ndarray:
        """As `Platt.probability`."""
        # Rounded, because interpolation between equal values can fall by the last bit.
        return np.asarray(np.interp(np.asarray(margin, float), self.margins, self.probabilities).round(12))


Calibrator = Annotated[Platt | Isotonic, Field(discriminator="method")]
CALIBRATOR: TypeAdapter[Platt | Isotonic] = TypeAdapter(Calibrator)


def fit_calibrator(y_true: ArrayLike, margin: ArrayLike, method: Method) -> Platt | Isotonic:
    """Fit a calibrator to the labels and margins of N patients.

    Both methods aim at Platt's smoothed targets, (N₊ + 1)/(N₊ + 2) for the N₊ positives and 1/(N₋ + 2) for the N₋
    negatives, so that no probability becomes certain if patients are few or the classes do not overlap.

    Raises:
        ValueError: one class only.
    """
    labels, margins = labels_and_scores(y_true, margin)
    if labels.all() or not labels.any():
        raise ValueError("calibration needs patients of both classes")
    targets = np.where(labels, (labels.sum() + 1) / (labels.sum() + 2), 1 / ((~labels).sum() + 2))
    return _platt(targets, margins) if method == "platt" else _isotonic(targets, margins)


def fit_update(y_true: ArrayLike, probability: ArrayLike, *, with_slope: bool) -> tuple[float, float]:
    """Intercept and slope of new log-odds = intercept + slope × old log-odds, by maximum likelihood (Cox 1958).

    Args:
        y_true: 0 or 1 [N], both classes.
        probability: old probabilities of the same patients [N].
        with_slope: whether to fit the slope, which is at least 0; else it is 1.
    """
    labels, p = labels_and_scores(y_true, probability)
    old = log_odds(p)
    if with_slope:
        fitted = _platt(labels.astype(float), old)
        return fitted.intercept, fitted.slope
    reach = -2 * logit(LIMIT)
    return float(brentq(lambda a: float(np.sum(labels - expit(a + old))), -reach, reach)), 1.0


def update_calibrator(calibrator: Platt | Isotonic, intercept: float, slope: float) -> Platt | Isotonic:
    """The calibrator whose log-odds are intercept + slope × the old ones; of an isotonic one, at its knots."""
    if isinstance(calibrator, Platt):
        return Platt(slope=slope * calibrator.slope, intercept=intercept + slope * calibrator.intercept)
    updated = expit(intercept + slope * logit(calibrator.probabilities))
    return Isotonic(margins=calibrator.margins, probabilities=tuple(np.clip(updated, LIMIT, 1 - LIMIT)))


def disagreement(margins: ArrayLike) -> float:
    """How much the folds disagree about a patient: the variance of margins [K, N] between folds, mean over patients.

    A fold whose margins are all higher or lower does not disagree. The patients must be new to every fold; their labels
    are not needed. NaN if fewer than two patients or folds have finite margins.
    """
    complete = np.asarray(margins, float)
    complete = complete[:, np.isfinite(complete).all(axis=0)]
    folds, patients = complete.shape
    if min(folds, patients) < 2:
        return float("nan")
    residual = complete - complete.mean(axis=0) - complete.mean(axis=1, keepdims=True) + complete.mean()
    return float(np.sum(residual**2) / ((folds - 1) * (patients - 1)))


def within_class_variance(fold: ArrayLike, y_true: ArrayLike, margin: ArrayLike) -> float:
    """Variance of single-fold margins [N] around the mean of their class in their fold; 0 if there are too few."""
    away, freedom = _away(fold, y_true, margin)
    return float(np.sum(away**2)) / freedom if freedom > 0 else 0.0


def _away(fold: ArrayLike, y_true: ArrayLike, margin: ArrayLike) -> tuple[np.ndarray, int]:
    """Margins minus the mean of their class in their fold, and the degrees of freedom."""
    table = pd.DataFrame({"fold": np.asarray(fold), "label": np.asarray(y_true), "margin": np.asarray(margin, float)})
    groups = table.groupby(["fold", "label"])["margin"]
    return (table["margin"] - groups.transform("mean")).to_numpy(), len(table) - groups.ngroups


def margins_of_mean(
    fold: ArrayLike, y_true: ArrayLike, margin: ArrayLike, *, folds: int, disagreement: float
) -> np.ndarray:
    """Margins as they would be if every patient had the mean of all folds' margins, not that of one fold.

    In the mean over K folds, each class varies less around its own mean, by (K − 1)/K of the folds' disagreement. So
    margins are moved towards the mean of their class by the factor that gives this variance. (With margins of normal
    distribution and equal variance the log-odds are linear in them with a slope of difference of means/variance, hence
    a fit to single folds is too flat by the ratio of the variances.)

    Args:
        fold: of each patient [N].
        y_true: 0 or 1 [N].
        margin: of the patient's own fold [N].
        folds: number of folds K whose mean is answered.
        disagreement: see the function of that name.
    """
    numbers, labels, margins = np.asarray(fold), np.asarray(y_true), np.asarray(margin, float)
    table = pd.DataFrame({"fold": numbers, "label": labels, "margin": margins})
    away, _ = _away(fold, y_true, margin)
    variance = within_class_variance(fold, y_true, margin)
    if variance == 0:
        return margins
    # The mean of K margins has at least 1/K of their variance.
    wanted = max(variance - (folds - 1) / folds * disagreement, variance / folds)
    # Each fold's mean counts once, as in the answered mean.
    by_class = table.groupby(["label", "fold"])["margin"].mean().groupby("label").mean()
    return np.asarray(table["label"].map(by_class) + away * np.sqrt(wanted / np.mean(away**2)))


def cross_calibrated(fold: ArrayLike, y_true: ArrayLike, margin: ArrayLike, method: Method) -> np.ndarray:
    """Calibrate out-of-fold margins [N], each fold's by a calibrator fitted to the other folds' patients.

    Made for reliability curves of development patients, to all of whom the ensemble's own calibrator was fitted. The
    probabilities are still optimistic if the margins are, as those of `build.score_out_of_fold`; those of
    `comparison.nested_margins` are not.
    """
    folds, labels, margins = np.asarray(fold), np.asarray(y_true), np.asarray(margin, float)
    probability = np.empty(len(margins))
    for number in np.unique(folds):
        own = folds == number
        probability[own] = fit_calibrator(labels[~own], margins[~own], method).probability(margins[own])
    return probability


def _platt(targets: np.ndarray, margins: np.ndarray) -> Platt:
    """Fit by maximum likelihood with a slope of at least 0; margins are scaled for the sake of the optimiser."""
    centre, scale = margins.mean(), np.ptp(margins) or 1.0
    x = (margins - centre) / scale

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = parameters[0] * x + parameters[1]
        error = expit(z) - targets
        return float(np.mean(np.logaddexp(0, z) - targets * z)), np.array([np.mean(error * x), np.mean(error)])

    options = {"ftol": 1e-15, "gtol": 1e-10}
    slope, intercept = minimize(loss, [0, 0], jac=True, bounds=[(0, None), (None, None)], options=options).x
    return Platt(slope=slope / scale, intercept=intercept - slope / scale * centre)


def _isotonic(targets: np.ndarray, margins: np.ndarray) -> Isotonic:
    from sklearn.isotonic import IsotonicRegression  # slow to import, and reading a spec does not need it

    fitted = IsotonicRegression().fit(margins, targets)
    return Isotonic(margins=tuple(fitted.X_thresholds_), probabilities=tuple(fitted.y_thresholds_))
