"""The figures of a results table against scikit-learn, and what happens to patients without an answer."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from rlvo.errors import RlvoError
from rlvo.evaluation.figures import figures


def test_figures_are_scikit_learns_over_the_answered() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 80)
    score = truth + rng.normal(size=80)
    vote = (score > 0.6).astype(float)
    score[:5] = np.nan
    found = figures(truth, score, vote)
    assert (found.patients, found.unanswered, found.positives) == (75, 5, truth[5:].sum())
    assert found.auc == pytest.approx(roc_auc_score(truth[5:], score[5:]))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth[5:], vote[5:]))
    assert found.f1 == pytest.approx(f1_score(truth[5:], vote[5:]))
    assert found.interval[0] < found.auc < found.interval[1]


def test_nobody_answered_is_said() -> None:
    with pytest.raises(RlvoError, match="no patient could be answered"):
        figures([0, 1], [np.nan, np.nan], [0, 0])
