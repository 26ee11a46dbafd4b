"""Is acting on a model better than alerting on everybody or nobody? Net benefit (Vickers & Elkin 2006)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from rlvo.errors import RlvoError
from rlvo.evaluation.checks import labels_and_scores

THRESHOLDS = tuple(np.arange(1, 51) / 100)
RESAMPLES = 2000


def decision_curve(
    y_true: ArrayLike, probability: ArrayLike, thresholds: Sequence[float] = THRESHOLDS, *, level: float = 0.95
) -> pd.DataFrame:
    """Net benefit TP/N − FP/N · t/(1 − t) of alerting where `probability >= t`, in true positives a patient.

    The threshold t says how many needless alerts one found patient is worth, (1 − t)/t; it is chosen by users, not from
    the data.

    Args:
        y_true: 0 or 1 [N].
        probability: predicted and calibrated [N].
        thresholds: within 0–1, both excluded.

    Returns:
        A row a threshold: `threshold`, `model`, `treat_all`, `treat_none` (0), and `low`, `high`: the model's bootstrap
        interval over patients.

    Raises:
        RlvoError: a threshold outside 0–1.
    """
    labels, p = labels_and_scores(y_true, probability)
    at = np.asarray(thresholds, np.float64)
    if not ((at > 0) & (at < 1)).all():
        raise RlvoError("thresholds lie between 0 and 1", where="decision curve")
    n, weight = len(p), at / (1 - at)
    true = np.array([np.sum(labels & (p >= t)) for t in at])
    false = np.array([np.sum(~labels & (p >= t)) for t in at])
    # Patients are resampled only by what they count as: true positive, false positive, or not alerted on.
    shares = np.column_stack([true, false, n - true - false]) / n
    drawn = np.random.default_rng(0).multinomial(n, shares, size=(RESAMPLES, len(at)))
    resampled = (drawn[..., 0] - drawn[..., 1] * weight) / n
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return pd.DataFrame(
        {
            "threshold": at,
            "model": (true - false * weight) / n,
            "treat_all": labels.mean() - (1 - labels.mean()) * weight,
            "treat_none": 0.0,
            "low": low,
            "high": high,
        }
    )
