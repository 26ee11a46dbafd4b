"""What one model shows on patients it was not fitted on: the figures of a results table, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from rlvo.errors import RlvoError
from rlvo.evaluation.metrics import (
    METRICS,
    OF_SCORES,
    auprc,
    bootstrap_interval,
    classification_metrics,
    wilson_interval,
)

DECISION = 0.5
"""Between the votes 0 and 1."""


@dataclass(frozen=True)
class Figures:
    """One model on one set of patients. NaN: not estimable."""

    patients: int
    """That were answered for."""
    unanswered: int
    positives: int
    auc: float
    """Of the score."""
    interval: tuple[float, float]
    """95 % bootstrap interval of the AUC over patients."""
    balanced_accuracy: float
    """Of the vote, as are the following but `auprc`."""
    f1: float
    sensitivity: float
    specificity: float
    auprc: float = float("nan")
    """Of the score; chance is the prevalence."""


def figures(y_true: ArrayLike, score: ArrayLike, vote: ArrayLike) -> Figures:
    """Figures of N patients.

    Args:
        y_true: 0 or 1 [N].
        score: any monotone scale [N]; NaN where a patient could not be answered for, who is then left out.
        vote: 0 or 1 [N].

    Raises:
        RlvoError: nobody was answered for.
    """
    truth, scores, votes, unanswered = _answered(y_true, score, vote)
    return Figures(
        patients=len(truth),
        unanswered=unanswered,
        positives=int(truth.sum()),
        interval=bootstrap_interval(truth, scores, "auc"),
        **_values(truth, scores, votes),
    )


def estimates(y_true: ArrayLike, score: ArrayLike, vote: ArrayLike, *, level: float = 0.95) -> pd.DataFrame:
    """Every metric with its interval: a row a metric, columns `value`, `low`, `high`; NaN where not estimable.

    Sensitivity and specificity have Wilson's interval, the others the bootstrap's. Arguments and errors as `figures`.
    """
    truth, scores, votes, _ = _answered(y_true, score, vote)
    values = _values(truth, scores, votes)
    intervals = {
        "sensitivity": wilson_interval(votes[truth == 1].sum(), (truth == 1).sum(), level),
        "specificity": wilson_interval((1 - votes[truth == 0]).sum(), (truth == 0).sum(), level),
    }
    for metric in (*OF_SCORES, *METRICS):
        if metric not in intervals:
            basis = scores if metric in OF_SCORES else votes
            intervals[metric] = bootstrap_interval(truth, basis, metric, threshold=DECISION, level=level)
    rows = {metric: (value, *intervals[metric]) for metric, value in values.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])


def _answered(y_true: ArrayLike, score: ArrayLike, vote: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Labels, scores and votes of the patients who were answered for, and how many were not."""
    truth, scores, votes = np.asarray(y_true, int), np.asarray(score, float), np.asarray(vote, float)
    answered = np.isfinite(scores)
    if not answered.any():
        raise RlvoError("no patient could be answered for", fix="The answers' warnings say why")
    return truth[answered], scores[answered], votes[answered], int((~answered).sum())


def _values(truth: np.ndarray, scores: np.ndarray, votes: np.ndarray) -> dict[str, float]:
    of_votes = classification_metrics(truth, votes, DECISION)
    return of_votes | {"auc": classification_metrics(truth, scores, 0.0)["auc"], "auprc": auprc(truth, scores)}
