"""Metrics of one score against labels, their 95 % intervals, and their mean over folds."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import binomtest, norm, rankdata

Metric = Literal["auc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity"]
METRICS: tuple[Metric, ...] = ("auc", "balanced_accuracy", "f1", "sensitivity", "specificity")
OF_SCORES: tuple[Metric, ...] = ("auc", "auprc")
"""Metrics of the score itself; the others are of decisions."""
LEVEL = 0.95
"""Confidence level of every interval."""
TAILS = (1 - LEVEL) / 2, (1 + LEVEL) / 2
"""Quantiles that bound it."""
Z = float(norm.ppf(TAILS[1]))
"""Standard errors in half of a normal interval."""
RESAMPLES = 2000
"""Bootstrap samples behind an interval."""
CHUNK_CELLS = 4_000_000
"""Largest bootstrap count matrix held at once."""


def labels_and_scores(y_true: ArrayLike, *scores: ArrayLike) -> tuple[np.ndarray, ...]:
    """Return labels as bool [N] and each score as float64 [N].

    Raises:
        ValueError: labels other than 0 and 1, lengths that differ, no patients, or scores that are not finite.
    """
    labels = np.asarray(y_true)
    arrays = [np.asarray(score, dtype=np.float64) for score in scores]
    if labels.ndim != 1 or not labels.size or not np.isin(labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1, one per patient")
    for array in arrays:
        if array.shape != labels.shape:
            raise ValueError(f"scores of shape {array.shape} for {len(labels)} labels")
        if not np.isfinite(array).all():
            raise ValueError(f"{np.count_nonzero(~np.isfinite(array))} of {len(array)} scores are not finite")
    return labels.astype(bool), *arrays


def classification_metrics(y_true: ArrayLike, score: ArrayLike, threshold: float) -> dict[str, float]:
    """AUC of the score; balanced accuracy, F1, sensitivity and specificity of `score >= threshold`.

    NaN if the class a metric is about is empty (AUC and balanced accuracy need both, F1 needs positives).
    """
    labels, scores = labels_and_scores(y_true, score)
    of_scores, of_decisions = _counts(scores, labels), _counts(scores >= threshold, labels)
    return {metric: _value(metric, *(of_scores if metric == "auc" else of_decisions)).item() for metric in METRICS}


def auprc(y_true: ArrayLike, score: ArrayLike) -> float:
    """Area under the precision-recall curve as average precision: Σ (recallₙ − recallₙ₋₁) · precisionₙ.

    Chance level is the prevalence, not 0.5. NaN if there are no positives.
    """
    labels, scores = labels_and_scores(y_true, score)
    return float(_value("auprc", *_counts(scores, labels))[0])


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), which stays within 0–1; NaN if n is 0."""
    if not n:
        return float("nan"), float("nan")
    interval = binomtest(int(successes), int(n)).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def auc_interval(y_true: ArrayLike, score: ArrayLike) -> tuple[float, float]:
    """Interval of the AUC with DeLong's variance on the logit scale (DeLong et al. 1988; Pepe 2003, section 5.2).

    Where that has no variance (an AUC of 0 or 1, one patient of a class), the score interval is taken
    (Newcombe 2006, part 2, method 5). (NaN, NaN) if a class is empty.
    """
    labels, scores = labels_and_scores(y_true, score)
    sizes = int(labels.sum()), int((~labels).sum())
    if not min(sizes):
        return float("nan"), float("nan")
    components = auc_components(labels, scores)
    auc = float(components[0].mean())
    variance = sum(np.var(own, ddof=1) / len(own) for own in components) if min(sizes) > 1 else 0.0
    if not 0 < auc < 1 or variance == 0:
        return _score_interval(auc, *sizes)
    half = Z * np.sqrt(variance) / (auc * (1 - auc))
    return float(expit(logit(auc) - half)), float(expit(logit(auc) + half))


def auc_components(labels: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Structural components: each positive's share of negatives below it, each negative's share of positives above it.

    A tie counts half. Midranks among all patients less midranks within the class count them in O(N log N) (Sun & Xu
    2014, eq. 5–9).
    """
    ranks = rankdata(score)
    positives, negatives = score[labels], score[~labels]
    below = (ranks[labels] - rankdata(positives)) / len(negatives)
    above = 1 - (ranks[~labels] - rankdata(negatives)) / len(positives)
    return below, above


def expected_auc_variance(auc: float, positives: ArrayLike, negatives: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Variance of an AUC estimate if `auc` is the true one, from numbers of patients alone.

    Hanley & McNeil's, made symmetric in the classes (Newcombe 2006, part 2, method 5).

    Returns:
        The variance, and the part of it that estimates have in common if they share their negatives.
    """
    m, n = np.asarray(positives, float), np.asarray(negatives, float)
    of_patient = auc * (1 - auc) * ((1 - auc) / (2 - auc) + auc / (1 + auc)) / 2
    return np.asarray((auc * (1 - auc) + (m + n - 2) * of_patient) / (m * n)), np.asarray(of_patient / n)


def balanced_accuracy_interval(found: int, positives: int, spared: int, negatives: int) -> tuple[float, float]:
    """Interval of (sensitivity + specificity)/2 from Wilson's of both (MOVER; Zou & Donner 2008); NaN without a class.

    Args:
        found: positives decided positive.
        spared: negatives decided negative.
    """
    if not min(positives, negatives):
        return float("nan"), float("nan")
    rates = np.array([found / positives, spared / negatives])
    bounds = np.array([wilson_interval(found, positives), wilson_interval(spared, negatives)])
    below, above = np.sqrt(((rates[:, None] - bounds) ** 2).sum(axis=0)) / 2
    return float(rates.mean() - below), float(rates.mean() + above)


def over_folds(per_fold: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD (n − 1) over folds: rows are the metrics of `per_fold`, columns `mean`, `sd`, `folds`.

    A fold in which a metric is not estimable (NaN) does not count towards it; `folds` is the number that do.
    """
    return pd.DataFrame({"mean": per_fold.mean(), "sd": per_fold.std(), "folds": per_fold.notna().sum()})


def bootstrap_interval(
    y_true: ArrayLike, score: ArrayLike, metric: Metric, *, threshold: float | None = None
) -> tuple[float, float]:
    """Percentile interval of a metric over resamples of patients, drawn within each class.

    Args:
        threshold: needed for every metric but `auc` and `auprc`.

    Returns:
        (low, high); NaN if a class is empty.
    """
    labels, scores = labels_and_scores(y_true, score)
    if metric not in OF_SCORES:
        if threshold is None:
            raise ValueError(f"{metric} needs a threshold")
        scores = scores >= threshold
    positives, negatives = _counts(scores, labels)
    if not positives.sum() or not negatives.sum():
        return float("nan"), float("nan")
    random = np.random.default_rng(0)
    chunk = max(1, CHUNK_CELLS // positives.shape[1])
    values = [
        _value(metric, _resampled(positives, size, random), _resampled(negatives, size, random))
        for size in (min(chunk, RESAMPLES - start) for start in range(0, RESAMPLES, chunk))
    ]
    low, high = np.quantile(np.concatenate(values), TAILS)
    return float(low), float(high)


def _score_interval(auc: float, positives: int, negatives: int) -> tuple[float, float]:
    """The AUCs θ from which `auc` is not further than Z standard errors under θ."""

    def outside(theta: float) -> float:
        return (theta - auc) ** 2 - Z**2 * float(expected_auc_variance(theta, positives, negatives)[0])

    tiny = 1e-12  # 0 and 1 are roots if they are the AUC itself
    low = 0.0 if auc < tiny else brentq(outside, tiny, min(auc, 1 - tiny))
    high = 1.0 if auc > 1 - tiny else brentq(outside, max(auc, tiny), 1 - tiny)
    return float(low), float(high)


def _counts(score: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of positives and of negatives at each distinct score, ascending: [1, U] each; U is 2 for decisions."""
    if score.dtype == bool:
        ranks, distinct = score.astype(np.intp), 2
    else:
        values, ranks = np.unique(score, return_inverse=True)
        distinct = len(values)
    positives, negatives = (np.bincount(ranks[chosen], minlength=distinct)[None] for chosen in (labels, ~labels))
    return positives, negatives


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
            return np.asarray(np.einsum("bu,bu->b", positives.astype(np.float64), below) / (p * n))
        if metric == "auprc":
            found = positives[:, ::-1]  # from the highest score down
            true = np.cumsum(found, axis=1)
            called = true + np.cumsum(negatives[:, ::-1], axis=1)
            precision = np.divide(true, called, out=np.zeros(true.shape), where=called > 0)
            return np.asarray(np.einsum("bu,bu->b", found.astype(np.float64), precision) / p)
        sensitivity, specificity = positives[:, 1] / p, negatives[:, 0] / n
        if metric == "sensitivity":
            return np.asarray(sensitivity)
        if metric == "specificity":
            return np.asarray(specificity)
        if metric == "balanced_accuracy":
            return np.asarray((sensitivity + specificity) / 2)
        return np.where(p > 0, 2 * positives[:, 1] / (p + positives[:, 1] + negatives[:, 1]), np.nan)
