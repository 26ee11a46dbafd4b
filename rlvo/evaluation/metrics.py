"""Metrics of one score against labels, and their bootstrap intervals."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from rlvo.errors import RlvoError
from rlvo.evaluation.checks import labels_and_scores

Metric = Literal["auc", "balanced_accuracy", "f1", "sensitivity", "specificity"]
METRICS: tuple[Metric, ...] = ("auc", "balanced_accuracy", "f1", "sensitivity", "specificity")
CHUNK_CELLS = 4_000_000
"""Largest bootstrap count matrix held at once."""


def classification_metrics(y_true: ArrayLike, score: ArrayLike, threshold: float) -> dict[str, float]:
    """AUC of the score; balanced accuracy, F1, sensitivity and specificity of `score >= threshold`.

    NaN where the class a metric is about is empty (AUC and balanced accuracy need both, F1 needs positives).
    """
    labels, scores = labels_and_scores(y_true, score)
    positives, negatives = _counts(scores, labels)
    hard_positives, hard_negatives = _counts(scores >= threshold, labels)
    return {
        metric: float(
            (
                _value(metric, positives, negatives)
                if metric == "auc"
                else _value(metric, hard_positives, hard_negatives)
            )[0]
        )
        for metric in METRICS
    }


def bootstrap_interval(
    y_true: ArrayLike,
    score: ArrayLike,
    metric: Metric,
    *,
    threshold: float | None = None,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a metric over `n` resamples of patients, drawn within each class.

    Args:
        threshold: for every metric but `auc`.

    Returns:
        (low, high); NaN where a class is empty.
    """
    labels, scores = labels_and_scores(y_true, score)
    if metric != "auc":
        if threshold is None:
            raise RlvoError(f"{metric} needs a threshold", where="bootstrap_interval")
        scores = scores >= threshold
    positives, negatives = _counts(scores, labels)
    if not positives.sum() or not negatives.sum():
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    chunk = max(1, CHUNK_CELLS // positives.shape[1])
    values = [
        _value(metric, _resampled(positives, size, random), _resampled(negatives, size, random))
        for size in (min(chunk, n - start) for start in range(0, n, chunk))
    ]
    low, high = np.quantile(np.concatenate(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _counts(score: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives at each distinct score, ascending: [1, U] each; U is 2 for decisions."""
    if score.dtype == bool:
        ranks, distinct = score.astype(np.intp), 2
    else:
        values, ranks = np.unique(score, return_inverse=True)
        distinct = len(values)
    return tuple(np.bincount(ranks[chosen], minlength=distinct)[None] for chosen in (labels, ~labels))  # type: ignore[return-value]


def _resampled(counts: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """Counts [size, U] of `size` draws of as many patients with replacement."""
    total = counts.sum()
    return random.multinomial(total, counts[0] / total, size=size)


def _value(metric: Metric, positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """A metric [B] from counts [B, U] at each distinct score (AUC) or at each decision, negative first (the others)."""
    p, n = positives.sum(axis=1), negatives.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric == "auc":
            # P(positive above negative) + half P(tie): the Mann-Whitney form.
            below = np.cumsum(negatives, axis=1) - negatives / 2
            return np.einsum("bu,bu->b", positives.astype(np.float64), below) / (p * n)
        sensitivity, specificity = positives[:, 1] / p, negatives[:, 0] / n
        if metric == "sensitivity":
            return sensitivity
        if metric == "specificity":
            return specificity
        if metric == "balanced_accuracy":
            return (sensitivity + specificity) / 2
        return np.where(p > 0, 2 * positives[:, 1] / (p + positives[:, 1] + negatives[:, 1]), np.nan)
