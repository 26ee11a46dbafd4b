"""The metrics of a results table against scikit-learn, and what happens to patients without an answer."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from rlvo.errors import RlvoError
from rlvo.evaluation.performance import estimate_metrics, measure_performance


def test_metrics_are_scikit_learns_over_patients_with_an_answer() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 80)
    score = truth + rng.normal(size=80)
    vote = (score > 0.6).astype(float)
    score[:5] = np.nan
    found = measure_performance(truth, score, vote)
    assert (found.patients, found.unanswered, found.positives) == (75, 5, truth[5:].sum())
    assert found.auc == pytest.approx(roc_auc_score(truth[5:], score[5:]))
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth[5:], vote[5:]))
    assert found.f1 == pytest.approx(f1_score(truth[5:], vote[5:]))
    assert found.auprc == pytest.approx(average_precision_score(truth[5:], score[5:]))
    assert found.interval[0] < found.auc < found.interval[1]


def test_every_estimate_has_an_interval() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 90)
    score = truth + rng.normal(size=90)
    vote = (score > 0.6).astype(float)
    found, same = estimate_metrics(truth, score, vote), measure_performance(truth, score, vote)
    assert set(found.index) == {"auc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity"}
    for metric, row in found.iterrows():
        assert row["value"] == getattr(same, str(metric))
        assert row["low"] < row["value"] < row["high"]
    assert tuple(found.loc["auc", ["low", "high"]]) == same.interval
    right, negatives = int((vote[truth == 0] == 0).sum()), int((truth == 0).sum())
    assert tuple(found.loc["specificity", ["low", "high"]]) == pytest.approx(
        proportion_confint(right, negatives, method="wilson")
    )


def test_metrics_of_an_empty_class_are_not_estimable() -> None:
    found = estimate_metrics([1, 1, 1], [0.1, 0.2, 0.3], [0, 1, 1])
    assert found.loc["sensitivity"].notna().all()
    assert found.loc[["auc", "balanced_accuracy", "specificity"]].isna().all(axis=None)


def test_patients_all_without_an_answer_are_refused() -> None:
    with pytest.raises(RlvoError, match="no patient could be scored"):
        measure_performance([0, 1], [np.nan, np.nan], [0, 0])
