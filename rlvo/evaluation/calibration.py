"""Are probabilities right as numbers? Reliability curve, Brier score, calibration error, intercept and slope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import bootstrap, norm

from rlvo.errors import RlvoError
from rlvo.evaluation.checks import labels_and_scores
from rlvo.evaluation.metrics import wilson_interval
from rlvo.evaluation.odds import log_odds

Bins = Literal["quantile", "equal"]
CLIP = 1e-6
"""Probabilities are kept this far from 0 and 1 where their logit is taken."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Calibration:
    """How far probabilities can be taken at their word. NaN: not estimable."""

    estimates: pd.DataFrame
    """Rows `brier`, `intercept` (0 is ideal), `slope` (1 is ideal); columns `value`, `low`, `high`."""
    ece: float
    """Expected calibration error: mean |observed − predicted| of the bins, weighted by patients."""
    ece_if_calibrated: tuple[float, float]
    """Where the ECE of so many patients falls if their probabilities are right: chance alone makes it positive."""


def reliability(y_true: ArrayLike, probability: ArrayLike, *, bins: int = 10, by: Bins = "quantile") -> pd.DataFrame:
    """Reliability curve: a row a bin that holds patients, ascending.

    Args:
        y_true: 0 or 1 [N].
        probability: predicted [N].
        bins: how many, at most; equal probabilities share a bin.
        by: as many patients in each bin (`quantile`), or bins of equal width over 0–1.

    Returns:
        Columns `predicted` (mean), `observed` (share of positives), `low`, `high` (Wilson 95 %), `patients`.
    """
    labels, p = _probabilities(y_true, probability)
    table = pd.DataFrame({"bin": _bin(p, bins, by), "p": p, "y": labels})
    found = table.groupby("bin").agg(
        predicted=("p", "mean"), observed=("y", "mean"), positives=("y", "sum"), patients=("y", "size")
    )
    intervals = [wilson_interval(*counts) for counts in found[["positives", "patients"]].to_numpy(int)]
    found[["low", "high"]] = np.array(intervals)
    return found[["predicted", "observed", "low", "high", "patients"]].reset_index(drop=True)


def calibration(
    y_true: ArrayLike, probability: ArrayLike, *, bins: int = 10, by: Bins = "quantile", level: float = 0.95
) -> Calibration:
    """Calibration of N probabilities.

    Brier's interval is the stratified bootstrap's. Intercept: of the logistic model with the predicted logit as offset
    (calibration in the large). Slope: of the logistic model of the predicted logit (Cox 1958; Van Calster et al.
    2019); both with Wald intervals, and not estimable where the probabilities separate the classes.
    """
    labels, p = _probabilities(y_true, probability)
    rows = {"brier": _brier(labels, p, level), **_recalibration(labels, p, level)}
    bin_of, random = _bin(p, bins, by), np.random.default_rng(0)
    right = np.quantile([_ece(random.random(len(p)) < p, p, bin_of) for _ in range(RESAMPLES)], _tails(level))
    return Calibration(
        estimates=pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"]),
        ece=_ece(labels, p, bin_of),
        ece_if_calibrated=(float(right[0]), float(right[1])),
    )


def _probabilities(y_true: ArrayLike, probability: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    labels, p = labels_and_scores(y_true, probability)
    if (p < 0).any() or (p > 1).any():
        raise RlvoError("a score outside 0–1 is no probability", where="probability")
    return labels, p


def _bin(p: np.ndarray, bins: int, by: Bins) -> np.ndarray:
    """Bin of each patient [N]; a probability on an edge belongs to the bin below it."""
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(np.quantile(p, inner) if by == "quantile" else inner, p)


def _tails(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _ece(labels: np.ndarray, p: np.ndarray, bin_of: np.ndarray) -> float:
    return float(np.abs(np.bincount(bin_of, weights=labels - p)).sum() / len(p))


def _brier(labels: np.ndarray, p: np.ndarray, level: float) -> tuple[float, float, float]:
    errors = (labels - p) ** 2
    of_positives, of_negatives = errors[labels], errors[~labels]
    if min(len(of_positives), len(of_negatives)) < 2:
        return float(errors.mean()), float("nan"), float("nan")

    def brier(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return (a.sum(axis) + b.sum(axis)) / len(errors)

    interval = bootstrap(
        (of_positives, of_negatives),
        brier,
        n_resamples=RESAMPLES,
        batch=200,
        vectorized=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(errors.mean()), float(interval.low), float(interval.high)


def _recalibration(labels: np.ndarray, p: np.ndarray, level: float) -> dict[str, tuple[float, float, float]]:
    rows = dict.fromkeys(("intercept", "slope"), (float("nan"),) * 3)
    if labels.all() or not labels.any():
        return rows
    predicted, z = logit(np.clip(p, CLIP, 1 - CLIP)), norm.ppf(_tails(level)[1])
    reach = -2 * logit(CLIP)
    intercept = brentq(lambda a: float(np.sum(labels - expit(a + predicted))), -reach, reach)
    information = np.sum(expit(intercept + predicted) * expit(-intercept - predicted))
    rows["intercept"] = _wald(intercept, 1 / np.sqrt(information), z)
    slope = log_odds(pd.DataFrame({"slope": predicted}), labels)
    rows["slope"] = _wald(slope["log_odds"].item(), slope["error"].item(), z)
    return rows


def _wald(value: float, error: float, z: float) -> tuple[float, float, float]:
    return float(value), float(value - z * error), float(value + z * error)
