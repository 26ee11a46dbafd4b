"""Youden's threshold against every other cutpoint and scikit-learn's curve."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from rlvo.evaluation.thresholds import better_than_chance, youden_threshold

patients = st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=2, max_size=40).filter(
    lambda pairs: 0 < sum(y for y, _ in pairs) < len(pairs)
)


def youden(y: np.ndarray, score: np.ndarray, threshold: float) -> float:
    return (score[y] >= threshold).mean() - (score[~y] >= threshold).mean()


@given(patients)
@example([(False, 12), (True, 12)])
@example([(True, 1), (False, 11)])
def test_no_cutpoint_is_better(pairs: list[tuple[bool, int]]) -> None:
    y, score = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]) / 12
    threshold = youden_threshold(y, score)
    cutpoints = [*np.unique(score), np.inf]
    best = max(youden(y, score, cut) for cut in cutpoints)
    assert youden(y, score, threshold) == pytest.approx(best, abs=1e-12)
    assert better_than_chance(y, score) == (best > 0)
    fpr, tpr, thresholds = roc_curve(y, score)
    first = thresholds[np.argmax(tpr - fpr)]
    assert threshold == (first if better_than_chance(y, score) else np.nextafter(score.max(), np.inf))


def test_of_equal_maxima_the_highest_threshold_is_taken() -> None:
    assert youden_threshold([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6]) == 0.9


@pytest.mark.parametrize(
    ("y", "score", "message"),
    [
        ([1, 1], [0.1, 0.2], "both classes"),
        ([0, 2], [0.1, 0.2], "labels must be 0 or 1"),
        ([], [], "labels must be 0 or 1"),
        ([0, 1], [0.1, np.nan], "1 of 2 scores are not finite"),
        ([0, 1], [0.1], "shape"),
    ],
)
def test_what_has_no_threshold_is_refused(y: list[int], score: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        youden_threshold(y, score)
