"""How one model performs on patients it was not fitted on: the metrics of a results table, with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from rlvo.errors import RlvoError
from rlvo.evaluation.metrics import (
    OF_SCORES,
    auc_interval,
    auprc,
    balanced_accuracy_interval,
    bootstrap_interval,
    classification_metrics,
    wilson_interval,
)

DECISION = 0.5
"""Between the votes 0 and 1."""
INTERVAL_METHODS = {
    "auc": "DeLong, logit scale",
    "auprc": "bootstrap",
    "balanced_accuracy": "MOVER of Wilson's",
    "f1": "bootstrap",
    "sensitivity": "Wilson",
    "specificity": "Wilson",
}
"""How each metric's 95 % interval is computed."""


@dataclass(frozen=True)
class Performance:
    """One model on one set of patients. NaN: not estimable."""

    patients: int
    """Those with an answer, whom everything but `unanswered` is about."""
    unanswered: int
    positives: int
    auc: float
    """Of the score."""
    interval: tuple[float, float]
    """95 % interval of the AUC over patients."""
    balanced_accuracy: float
    """Of the vote, as are the next three."""
    f1: float
    sensitivity: float
    specificity: float
    auprc: float = float("nan")
    """Of the score; chance level is the prevalence."""
    interval_method: str = "bootstrap"
    """How `interval` was computed; in results that older versions kept, which don't say so, by the bootstrap."""


def answer_metrics(y_true: ArrayLike, score: ArrayLike, vote: ArrayLike) -> dict[str, float]:
    """`classification_metrics` of the votes, with the AUC of the score."""
    auc = classification_metrics(y_true, score, 0.0)["auc"]
    return classification_metrics(y_true, vote, DECISION) | {"auc": auc}


def measure_performance(y_true: ArrayLike, score: ArrayLike, vote: ArrayLike) -> Performance:
    """Measure a model's performance on N patients.

    Args:
        y_true: 0 or 1 [N].
        score: on any monotone scale [N]; NaN for a patient without an answer, who is left out.
        vote: 0 or 1 [N].

    Raises:
        RlvoError: no patient has an answer.
    """
    truth, scores, votes = _answered(y_true, score, vote)
    return Performance(
        patients=len(truth),
        unanswered=np.size(y_true) - len(truth),
        positives=int(truth.sum()),
        interval=auc_interval(truth, scores),
        interval_method=INTERVAL_METHODS["auc"],
        **_values(truth, scores, votes),
    )


def estimate_metrics(
    y_true: ArrayLike, score: ArrayLike, vote: ArrayLike, metrics: Sequence[str] = tuple(INTERVAL_METHODS)
) -> pd.DataFrame:
    """The metrics with their intervals: rows are metrics, columns `value`, `low`, `high`; NaN if not estimable.

    Intervals are those of `INTERVAL_METHODS`. Other arguments and errors are those of `measure_performance`.
    """
    truth, scores, votes = _answered(y_true, score, vote)
    values = _values(truth, scores, votes)
    rows = {metric: (values[metric], *_interval(metric, truth, scores, votes)) for metric in metrics}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])


def _interval(metric: str, truth: np.ndarray, scores: np.ndarray, votes: np.ndarray) -> tuple[float, float]:
    found, spared = int(votes[truth == 1].sum()), int((1 - votes[truth == 0]).sum())
    positives, negatives = int((truth == 1).sum()), int((truth == 0).sum())
    match metric:
        case "auc":
            return auc_interval(truth, scores)
        case "sensitivity":
            return wilson_interval(found, positives)
        case "specificity":
            return wilson_interval(spared, negatives)
        case "balanced_accuracy":
            return balanced_accuracy_interval(found, positives, spared, negatives)
        case _:
            basis = scores if metric in OF_SCORES else votes
            return bootstrap_interval(truth, basis, metric, threshold=DECISION)  # type: ignore[arg-type]


def _answered(y_true: ArrayLike, score: ArrayLike, vote: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and votes of the patients with an answer."""
    truth, scores, votes = np.asarray(y_true, int), np.asarray(score, float), np.asarray(vote, float)
    answered = np.isfinite(scores)
    if not answered.any():
        raise RlvoError("no patient could be scored", fix="The warnings beside the answers say why")
    return truth[answered], scores[answered], votes[answered]


def _values(truth: np.ndarray, scores: np.ndarray, votes: np.ndarray) -> dict[str, float]:
    return answer_metrics(truth, scores, votes) | {"auprc": auprc(truth, scores)}
