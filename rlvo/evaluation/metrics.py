"""Metrics of one score against labels, their intervals, and their mean over folds."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from rlvo.errors import RlvoError
from rlvo.evaluation.checks import labels_and_scores

Metric = Literal["auc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity"]
METRICS: tuple[Metric, ...] = ("auc", "balanced_accuracy", "f1", "sensitivity", "specificity")
OF_SCORES: tuple[Metric, ...] = ("auc", "auprc")
"""Metrics of the score itself; the others are of decisions."""
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


def auprc(y_true: ArrayLike, score: ArrayLike) -> float:
    """Area under the precision-recall curve as average precision: Σ (recallₙ − recallₙ₋₁) · precisionₙ.

    Chance is the prevalence, not 0.5. NaN without positives.
    """
    labels, scores = labels_and_scores(y_true, score)
    return float(_value("auprc", *_counts(scores, labels))[0])


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), within 0–1 for few patients too; NaN where n is 0."""
    if not n:
        return float("nan"), float("nan")
    interval = binomtest(int(successes), int(n)).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def over_folds(per_fold: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD (n − 1) over folds of each metric: rows are metrics, columns `mean`, `sd`, `folds`.

    A fold in which a metric is not estimable (NaN) is left out of it; `folds` says how many are behind each mean.
    """
    return pd.DataFrame({"mean": per_fold.mean(), "sd": per_fold.std(), "folds": per_fold.notna().sum()})


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
        threshold: for every metric but `auc` and `auprc`.

    Returns:
        (low, high); NaN where a class is empty.
    """
    labels, scores = labels_and_scores(y_true, score)
    if metric not in OF_SCORES:
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
    """A metric [B] from counts [B, U] at each distinct score (`OF_SCORES`) or at each decision, negative first."""
    p, n = positives.sum(axis=1), negatives.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric == "auc":
            # P(positive above negative) + half P(tie): the Mann-Whitney form.
            below = np.cumsum(negatives, axis=1) - negatives / 2
            return np.einsum("bu,bu->b", positives.astype(np.float64), below) / (p * n)
        if metric == "auprc":
            found = positives[:, ::-1]  # from the highest score down
            true = np.cumsum(found, axis=1)
            called = true + np.cumsum(negatives[:, ::-1], axis=1)
            precision = np.divide(true, called, out=np.zeros(true.shape), where=called > 0)
            return np.einsum("bu,bu->b", found.astype(np.float64), precision) / p
        sensitivity, specificity = positives[:, 1] / p, negatives[:, 0] / n
        if metric == "sensitivity":
            return sensitivity
        if metric == "specificity":
            return specificity
        if metric == "balanced_accuracy":
            return (sensitivity + specificity) / 2
        return np.where(p > 0, 2 * positives[:, 1] / (p + positives[:, 1] + negatives[:, 1]), np.nan)
