"""Calibration and net benefit against scikit-learn, the defining equations, and simulated truth."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from statsmodels.stats.proportion import proportion_confint

from rlvo.evaluation.calibration import decision_curve, measure_calibration, reliability_curve


def patients(n: int, seed: int, *, slope: float = 1.0, intercept: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that are right if slope is 1 and intercept 0."""
    random = np.random.default_rng(seed)
    predicted = random.normal(-1.5, 1, n)
    return (random.random(n) < expit(intercept + slope * predicted)).astype(int), expit(predicted)


@pytest.mark.parametrize("decimals", [1, 8])
def test_the_curve_is_scikit_learns_with_counts_and_intervals(decimals: int) -> None:
    y, p = patients(300, 0)
    p = p.round(decimals)  # ties
    curve = reliability_curve(y, p)
    observed, predicted = calibration_curve(y, p, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(curve["predicted"], predicted)
    np.testing.assert_allclose(curve["observed"], observed)
    assert curve["patients"].sum() == 300
    for row in curve.itertuples():
        positives = round(row.observed * row.patients)
        assert (row.low, row.high) == pytest.approx(
            proportion_confint(positives, row.patients, method="wilson"), abs=1e-9
        )


def test_brier_error_intercept_and_slope_are_their_definitions() -> None:
    y, p = patients(400, 1, slope=0.6, intercept=0.5)
    found = measure_calibration(y, p)
    assert found.estimates.loc["brier", "value"] == pytest.approx(brier_score_loss(y, p))
    curve = reliability_curve(y, p)
    assert found.ece == pytest.approx((curve["patients"] / 400 * (curve["observed"] - curve["predicted"]).abs()).sum())
    offset = sm.GLM(y, np.ones(400), sm.families.Binomial(), offset=logit(p)).fit()
    intercept = found.estimates.loc["intercept"]
    assert intercept["value"] == pytest.approx(offset.params[0], abs=1e-6)
    assert (intercept["low"], intercept["high"]) == pytest.approx(tuple(offset.conf_int()[0]), abs=1e-5)
    slope = LogisticRegression(C=np.inf, tol=1e-8).fit(logit(p)[:, None], y).coef_[0, 0]
    assert found.estimates.loc["slope", "value"] == pytest.approx(slope, abs=1e-3)


def test_the_briers_interval_is_resampled_patients() -> None:
    y, p = patients(150, 2)
    random, values = np.random.default_rng(3), []
    for _ in range(2000):
        drawn = np.concatenate([random.choice(rows, len(rows)) for rows in (np.flatnonzero(y), np.flatnonzero(1 - y))])
        values.append(brier_score_loss(y[drawn], p[drawn]))
    found = measure_calibration(y, p).estimates.loc["brier", ["low", "high"]]
    np.testing.assert_allclose(found.astype(float), np.quantile(values, [0.025, 0.975]), atol=0.004)


def test_intervals_cover_the_truth_and_chance_explains_the_error_of_right_probabilities() -> None:
    covered = np.zeros(3)
    for seed in range(60):
        y, p = patients(250, 100 + seed)
        found = measure_calibration(y, p)
        rows = found.estimates.loc[["intercept", "slope"]]
        covered[:2] += (rows["low"] <= [0, 1]) & (rows["high"] >= [0, 1])
        low, high = found.ece_if_calibrated
        covered[2] += low <= found.ece <= high
    # 95 %: 57 of 60, standard deviation 1.7.
    assert (covered >= 52).all(), covered
    wrong = measure_calibration(*patients(250, 0, slope=0.3, intercept=1.0))
    assert wrong.ece > wrong.ece_if_calibrated[1]
    assert wrong.estimates.loc["slope", "high"] < 1
    assert wrong.estimates.loc["intercept", "low"] > 0


@pytest.mark.parametrize(
    ("y", "p", "open_"),
    [
        ([0, 0, 0], [0.1, 0.2, 0.3], {"intercept", "slope"}),
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], {"slope"}),
        ([1, 1, 0, 0], [0.1, 0.2, 0.2, 1.0], {"slope"}),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], {"slope"}),
        ([0, 1, 0, 1], [0.0, 1.0, 0.4, 0.3], set()),
    ],
)
def test_what_cannot_be_estimated_is_not(y: list[int], p: list[float], open_: set[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = measure_calibration(y, p).estimates
    assert set(rows.index[rows["value"].isna()]) == open_
    assert rows.loc[rows["value"].notna(), "value"].map(np.isfinite).all()


@pytest.mark.parametrize("function", [reliability_curve, measure_calibration, decision_curve])
def test_scores_outside_0_to_1_are_refused(function: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="within 0–1"):
        function([0, 1], [-0.1, 0.5])


def net_benefit(y: np.ndarray, alerted: np.ndarray, t: float) -> float:
    return float((y * alerted).mean() - ((1 - y) * alerted).mean() * t / (1 - t))


def test_the_curve_is_the_definition_and_its_interval_resampled_patients() -> None:
    random = np.random.default_rng(0)
    y = (random.random(200) < 0.2).astype(int)
    p = np.clip(random.normal(0.15 + 0.15 * y, 0.1), 0, 1).round(2)  # ties with the thresholds
    curve = decision_curve(y, p)
    assert curve["threshold"].tolist() == pytest.approx(np.arange(1, 51) / 100)
    for row in curve.itertuples():
        assert row.model == pytest.approx(net_benefit(y, p >= row.threshold, row.threshold))
        assert row.treat_all == pytest.approx(net_benefit(y, np.ones(200), row.threshold))
        assert row.treat_none == 0
    at = curve[curve["threshold"] == 0.2].iloc[0]
    rows = random.integers(0, 200, (2000, 200))
    values = [net_benefit(y[drawn], p[drawn] >= 0.2, 0.2) for drawn in rows]
    np.testing.assert_allclose([at["low"], at["high"]], np.quantile(values, [0.025, 0.975]), atol=0.006)


def test_a_model_that_alerts_on_all_gains_nothing_over_alerting_on_all() -> None:
    """To the bit: what is counted must not be rounding."""
    random = np.random.default_rng(1)
    for n, positives in ((118, 16), (143, 40), (600, 81)):
        curve = decision_curve(np.arange(n) < positives, random.uniform(0.3, 0.6, n))
        everybody = curve["threshold"] < 0.3
        assert (curve["model"] == curve["treat_all"])[everybody].all()


def test_a_perfect_model_gains_the_prevalence_and_alerting_on_all_breaks_even_there() -> None:
    y = np.array([1, 0, 0, 0])
    curve = decision_curve(y, y)
    assert (curve["model"] == 0.25).all()
    assert curve.set_index("threshold").loc[0.25, "treat_all"] == pytest.approx(0)
