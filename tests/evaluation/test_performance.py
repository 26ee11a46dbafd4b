"""The metrics of a results table against scikit-learn, and what happens to patients without an answer."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from rlvo.evaluation.metrics import auc_interval
from rlvo.evaluation.performance import estimate_metrics, measure_performance


def test_metrics_are_scikit_learns_over_patients_with_an_answer_each_with_an_interval() -> None:
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

    estimates = estimate_metrics(truth, score, vote)
    assert set(estimates.index) == {"auc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity"}
    for metric, row in estimates.iterrows():
        assert row["value"] == getattr(found, str(metric))
        assert row["low"] < row["value"] < row["high"]
    assert tuple(estimates.loc["auc", ["low", "high"]]) == found.interval == auc_interval(truth[5:], score[5:])
    assert found.interval_method == "DeLong, logit scale"
    right, negatives = int((vote[5:][truth[5:] == 0] == 0).sum()), int((truth[5:] == 0).sum())
    assert tuple(estimates.loc["specificity", ["low", "high"]]) == pytest.approx(
        proportion_confint(right, negatives, method="wilson")
    )
