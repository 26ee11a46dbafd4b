"""Metrics against scikit-learn, intervals against statsmodels and resampling one by one."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, recall_score, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from rlvo.evaluation.metrics import (
    METRICS,
    auc_interval,
    auprc,
    balanced_accuracy_interval,
    bootstrap_interval,
    classification_metrics,
    expected_auc_variance,
    over_folds,
    wilson_interval,
)

patients = st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=2, max_size=40).filter(
    lambda pairs: 0 < sum(y for y, _ in pairs) < len(pairs)
)


@given(patients, st.floats(-0.1, 1.1))
def test_metrics_are_scikit_learns(pairs: list[tuple[bool, int]], threshold: float) -> None:
    y, score = np.array([int(p[0]) for p in pairs]), np.array([p[1] for p in pairs]) / 9
    decided = score >= threshold
    assert classification_metrics(y, score, threshold) == pytest.approx(
        {
            "auc": roc_auc_score(y, score),
            "balanced_accuracy": balanced_accuracy_score(y, decided),
            "f1": f1_score(y, decided, zero_division=0),
            "sensitivity": recall_score(y, decided),
            "specificity": recall_score(y, decided, pos_label=0),
        }
    )


@given(patients)
def test_auprc_is_scikit_learns_also_with_ties(pairs: list[tuple[bool, int]]) -> None:
    y, score = np.array([int(p[0]) for p in pairs]), np.array([p[1] for p in pairs]) / 9
    assert auprc(y, score) == pytest.approx(average_precision_score(y, score))


@given(n=st.integers(1, 60), data=st.data())
def test_wilsons_interval_is_statsmodels(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    assert wilson_interval(k, n) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-9)


def test_means_over_folds_say_how_many_folds_they_stand_on() -> None:
    found = over_folds(pd.DataFrame({"auc": [0.5, 0.7, 0.9], "f1": [0.2, np.nan, 0.4], "auprc": [np.nan] * 3}))
    assert found.loc["auc"].tolist() == pytest.approx([0.7, 0.2, 3])
    assert found.loc["f1"].tolist() == pytest.approx([0.3, np.sqrt(0.02), 2])
    assert found.loc["auprc", "folds"] == 0
    assert np.isnan(found.loc["auprc", "mean"])


def test_the_threshold_itself_is_positive() -> None:
    assert classification_metrics([0, 1], [0.2, 0.5], 0.5)["sensitivity"] == 1


def test_an_empty_class_is_not_estimable() -> None:
    positives = classification_metrics([1, 1], [0.2, 0.8], 0.5)
    assert positives["sensitivity"] == 0.5
    assert positives["f1"] == pytest.approx(2 / 3)
    assert np.isnan([positives["auc"], positives["balanced_accuracy"], positives["specificity"]]).all()
    negatives = classification_metrics([0, 0], [0.2, 0.8], 0.5)
    assert negatives["specificity"] == 0.5
    assert np.isnan([negatives[m] for m in METRICS if m != "specificity"]).all()
    assert np.isnan(bootstrap_interval([1, 1], [0.2, 0.8], "auc")).all()
    assert np.isnan(auc_interval([1, 1], [0.2, 0.8])).all()
    assert np.isnan([auprc([0, 0], [0.2, 0.8]), *wilson_interval(0, 0)]).all()


@pytest.mark.parametrize("metric", [*METRICS, "auprc"])
def test_bootstrap_agrees_with_resampling_patients_one_by_one(metric: str) -> None:
    random = np.random.default_rng(1)
    y = np.repeat([1, 0], [25, 60])
    score = (random.normal(size=85) + y).round(1)
    groups = [np.flatnonzero(y == 1), np.flatnonzero(y == 0)]
    values = []
    for _ in range(1500):
        drawn = np.concatenate([random.choice(group, len(group)) for group in groups])
        if metric == "auprc":
            values.append(average_precision_score(y[drawn], score[drawn]))
        else:
            values.append(classification_metrics(y[drawn], score[drawn], 0.5)[metric])
    expected = np.quantile(values, [0.025, 0.975])
    interval = bootstrap_interval(y, score, metric, threshold=0.5)  # type: ignore[arg-type]
    np.testing.assert_allclose(interval, expected, atol=0.025)


def test_the_aucs_interval_is_delongs_on_the_logit_scale() -> None:
    random = np.random.default_rng(3)
    y = np.repeat([1, 0], [16, 60])
    score = (random.normal(size=76) + y).round(1)
    kernel = (np.sign(score[y == 1][:, None] - score[y == 0]) + 1) / 2
    auc = kernel.mean()
    variance = np.var(kernel.mean(1), ddof=1) / 16 + np.var(kernel.mean(0), ddof=1) / 60
    half = 1.959964 * np.sqrt(variance) / (auc * (1 - auc))
    expected = 1 / (1 + np.exp(-np.log(auc / (1 - auc)) - np.array([-half, half])))
    np.testing.assert_allclose(auc_interval(y, score), expected, rtol=1e-6)
    mirrored = auc_interval(y, -score)
    np.testing.assert_allclose(mirrored, 1 - expected[::-1], rtol=1e-6)


@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (1, 20), (2, 20), (16, 102), (200, 200)])
def test_a_perfect_auc_is_not_certain(positives: int, negatives: int) -> None:
    y = np.repeat([1, 0], [positives, negatives])
    low, high = auc_interval(y, y)
    assert high == 1
    distance, se = 1 - low, np.sqrt(expected_auc_variance(low, positives, negatives)[0])
    assert distance == pytest.approx(1.959964 * se, rel=1e-5)
    assert 0 < low < 1
    np.testing.assert_allclose(auc_interval(y, 1 - y), (0, 1 - low), atol=1e-9)


def test_scores_that_are_all_tied_have_an_interval_around_chance() -> None:
    low, high = auc_interval([0] * 20 + [1] * 5, np.zeros(25))
    assert 0.1 < low < 0.5 < high < 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("positives", "negatives", "auc"), [(16, 102, 0.7), (16, 102, 0.9), (5, 15, 0.9), (2, 20, 0.9)]
)
def test_the_aucs_interval_covers(positives: int, negatives: int, auc: float) -> None:
    """2,000 binormal draws; the bootstrap's covers 92 to 94, 91, 83 and 71 %."""
    random, y = np.random.default_rng(0), np.repeat([1, 0], [positives, negatives])
    covered = 0
    for _ in range(2000):
        low, high = auc_interval(y, random.normal(size=len(y)) + y * np.sqrt(2) * norm.ppf(auc))
        covered += low <= auc <= high
    assert 0.92 < covered / 2000 < 0.985


def test_balanced_accuracys_interval_is_that_of_a_mean_of_two_proportions() -> None:
    low, high = balanced_accuracy_interval(16, 16, 90, 102)
    sensitivity, specificity = wilson_interval(16, 16), wilson_interval(90, 102)
    rates = np.array([1, 90 / 102])
    assert rates.mean() - low == pytest.approx(np.hypot(1 - sensitivity[0], rates[1] - specificity[0]) / 2)
    assert high - rates.mean() == pytest.approx((specificity[1] - rates[1]) / 2)
    assert high <= 1
    assert np.isnan(balanced_accuracy_interval(0, 0, 5, 9)).all()


def test_bootstrap_is_the_same_every_time_and_needs_a_threshold_for_decisions() -> None:
    y, score = [0, 1] * 20, np.linspace(0, 1, 40) ** 2
    assert bootstrap_interval(y, score, "auc") == bootstrap_interval(y, score, "auc")
    assert bootstrap_interval([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], "auc") == (1, 1)
    with pytest.raises(ValueError, match="f1 needs a threshold"):
        bootstrap_interval(y, score, "f1")
