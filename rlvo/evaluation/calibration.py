"""Do probabilities mean what they say, and is it useful to act on them?

Reliability curve, Brier score, calibration error, intercept and slope; net benefit (Vickers & Elkin 2006).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import bootstrap, norm

from rlvo.evaluation.metrics import LEVEL, RESAMPLES, TAILS, labels_and_scores, wilson_interval
from rlvo.evaluation.odds import log_odds

BINS = 10
"""At most, with as many patients in each; equal probabilities share a bin."""
CLIP = 1e-6
"""Probabilities are kept this far from 0 and 1 before their logit is taken."""
THRESHOLDS = np.arange(1, 51) / 100
"""Threshold probabilities of a decision curve."""


@dataclass(frozen=True)
class Calibration:
    """How well probabilities are calibrated. NaN: not estimable."""

    estimates: pd.DataFrame
    """Rows `brier`, `intercept` (0 is ideal), `slope` (1 is ideal); columns `value`, `low`, `high`."""
    ece: float
    """Expected calibration error: mean of |observed − predicted| over the bins, weighted by patients."""
    ece_if_calibrated: tuple[float, float]
    """95 % range of the ECE of as many patients if their probabilities are right: chance alone makes it positive."""


def reliability_curve(y_true: ArrayLike, probability: ArrayLike) -> pd.DataFrame:
    """Reliability curve of labels [N] (0 or 1) and predicted probabilities [N]: one row per bin, ascending.

    Returns:
        Columns `predicted` (mean), `observed` (share of positives), `low`, `high` (Wilson 95 %), `patients`.

    Raises:
        ValueError: a probability outside 0–1.
    """
    labels, p = _probabilities(y_true, probability)
    table = pd.DataFrame({"bin": _bin(p), "p": p, "y": labels})
    found = table.groupby("bin").agg(
        predicted=("p", "mean"), observed=("y", "mean"), positives=("y", "sum"), patients=("y", "size")
    )
    found[["low", "high"]] = [wilson_interval(*counts) for counts in found[["positives", "patients"]].to_numpy(int)]
    return found[["predicted", "observed", "low", "high", "patients"]].reset_index(drop=True)


def measure_calibration(y_true: ArrayLike, probability: ArrayLike) -> Calibration:
    """Measure the calibration of N probabilities; arguments and errors are those of `reliability_curve`.

    The Brier score's interval is the stratified bootstrap's. The intercept (calibration in the large) is that of a
    logistic model with the predicted logit as offset, the slope that of a logistic model of the predicted logit (Cox
    1958; Van Calster et al. 2019). Both have Wald intervals, and are not estimable if the probabilities separate the
    classes.
    """
    labels, p = _probabilities(y_true, probability)
    rows = {"brier": _brier(labels, p), **_recalibration(labels, p)}
    bin_of, random = _bin(p), np.random.default_rng(0)
    right = np.quantile([_ece(random.random(len(p)) < p, p, bin_of) for _ in range(RESAMPLES)], TAILS)
    return Calibration(
        estimates=pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"]),
        ece=_ece(labels, p, bin_of),
        ece_if_calibrated=(float(right[0]), float(right[1])),
    )


def decision_curve(y_true: ArrayLike, probability: ArrayLike) -> pd.DataFrame:
    """Net benefit TP/N − FP/N · t/(1 − t) of alerting if `probability >= t`, in true positives per patient.

    The threshold t says how many needless alerts one true alert is worth: (1 − t)/t. Users choose it; it does not come
    from the data. Arguments and errors are those of `reliability_curve`.

    Returns:
        One row per threshold: `threshold`, `model`, `treat_all`, `treat_none` (0), and `low`, `high`: the model's
        bootstrap interval over patients.
    """
    labels, p = _probabilities(y_true, probability)
    n, weight = len(p), THRESHOLDS / (1 - THRESHOLDS)
    true = np.array([np.sum(labels & (p >= t)) for t in THRESHOLDS])
    false = np.array([np.sum(~labels & (p >= t)) for t in THRESHOLDS])
    # All that matters of a resampled patient is what it counts as: true positive, false positive, or no alert.
    shares = np.column_stack([true, false, n - true - false]) / n
    drawn = np.random.default_rng(0).multinomial(n, shares, size=(RESAMPLES, len(THRESHOLDS)))
    resampled = (drawn[..., 0] - drawn[..., 1] * weight) / n
    low, high = np.quantile(resampled, TAILS, axis=0)
    return pd.DataFrame(
        {
            "threshold": THRESHOLDS,
            "model": (true - false * weight) / n,
            "treat_all": (labels.sum() - (~labels).sum() * weight) / n,
            "treat_none": 0.0,
            "low": low,
            "high": high,
        }
    )


def _probabilities(y_true: ArrayLike, probability: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, p = labels_and_scores(y_true, probability)
    if (p < 0).any() or (p > 1).any():
        raise ValueError("probabilities must lie within 0–1")
    return labels, p


def _bin(p: np.ndarray) -> np.ndarray:
    """Bin of each patient [N]; a probability on an edge belongs to the bin below it."""
    return np.searchsorted(np.quantile(p, np.linspace(0, 1, BINS + 1)[1:-1]), p)


def _ece(labels: np.ndarray, p: np.ndarray, bin_of: np.ndarray) -> float:
    return float(np.abs(np.bincount(bin_of, weights=labels - p)).sum() / len(p))


def _brier(labels: np.ndarray, p: np.ndarray) -> tuple[float, float, float]:
    errors = (labels - p) ** 2
    of_positives, of_negatives = errors[labels], errors[~labels]
    if min(len(of_positives), len(of_negatives)) < 2:
        return float(errors.mean()), float("nan"), float("nan")

    def brier(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray((a.sum(axis) + b.sum(axis)) / len(errors))

    interval = bootstrap(
        (of_positives, of_negatives),
        brier,
        n_resamples=RESAMPLES,
        batch=200,
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(errors.mean()), float(interval.low), float(interval.high)


def _recalibration(labels: np.ndarray, p: np.ndarray) -> dict[str, tuple[float, float, float]]:
    rows = dict.fromkeys(("intercept", "slope"), (float("nan"),) * 3)
    if labels.all() or not labels.any():
        return rows
    predicted, z = logit(np.clip(p, CLIP, 1 - CLIP)), norm.ppf(TAILS[1])
    reach = -2 * logit(CLIP)
    intercept = brentq(lambda a: float(np.sum(labels - expit(a + predicted))), -reach, reach)
    information = np.sum(expit(intercept + predicted) * expit(-intercept - predicted))
    rows["intercept"] = _wald(intercept, 1 / np.sqrt(information), z)
    slope = log_odds(pd.DataFrame({"slope": predicted}), labels)
    rows["slope"] = _wald(slope["log_odds"].item(), slope["error"].item(), z)
    return rows


def _wald(value: float, error: float, z: float) -> tuple[float, float, float]:
    return float(value), float(value - z * error), float(value + z * error)
