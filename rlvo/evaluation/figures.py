"""What one model shows on patients it was not fitted on: the figures of a results table, with an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlvo.errors import RlvoError
from rlvo.evaluation.metrics import bootstrap_interval, classification_metrics


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
    """Of the vote, as are the following."""
    f1: float
    sensitivity: float
    specificity: float


def figures(y_true: ArrayLike, score: ArrayLike, vote: ArrayLike) -> Figures:
    """Figures of N patients.

    Args:
        y_true: 0 or 1 [N].
        score: any monotone scale [N]; NaN where a patient could not be answered for, who is then left out.
        vote: 0 or 1 [N].

    Raises:
        RlvoError: nobody was answered for.
    """
    truth, scores, votes = np.asarray(y_true, int), np.asarray(score, float), np.asarray(vote, float)
    answered = np.isfinite(scores)
    if not answered.any():
        raise RlvoError("no patient could be answered for", fix="The answers' warnings say why")
    truth, scores, votes = truth[answered], scores[answered], votes[answered]
    of_votes = classification_metrics(truth, votes, 0.5)
    return Figures(
        patients=len(truth),
        unanswered=int((~answered).sum()),
        positives=int(truth.sum()),
        auc=classification_metrics(truth, scores, 0.0)["auc"],
        interval=bootstrap_interval(truth, scores, "auc"),
        balanced_accuracy=of_votes["balanced_accuracy"],
        f1=of_votes["f1"],
        sensitivity=of_votes["sensitivity"],
        specificity=of_votes["specificity"],
    )
