"""Calibrators against scikit-learn's fits of the smoothed targets, and on simulated truth."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from rlvo.ensemble.calibration import (
    Calibrator,
    Isotonic,
    Method,
    Platt,
    cross_calibrated,
    disagreement,
    fit_calibrator,
    margins_of_mean,
)
from rlvo.evaluation.calibration import measure_calibration

ANY: TypeAdapter[Platt | Isotonic] = TypeAdapter(Calibrator)
METHODS: tuple[Method, ...] = ("platt", "isotonic")


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and margins of a known logistic truth: slope 6, intercept −1."""
    rng = np.random.default_rng(seed)
    margin = rng.normal(0, 0.3, n)
    return (rng.random(n) < expit(6 * margin - 1)).astype(int), margin


def targets(y: np.ndarray) -> np.ndarray:
    positives, negatives = y.sum(), (1 - y).sum()
    return np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def test_platt_is_the_logistic_fit_of_the_smoothed_targets() -> None:
    y, margin = drawn(300)
    t = targets(y)
    doubled = np.r_[margin, margin][:, None], np.r_[np.ones(300), np.zeros(300)]
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(*doubled, sample_weight=np.r_[t, 1 - t])
    fitted = fit_calibrator(y, margin, "platt")
    assert isinstance(fitted, Platt)
    np.testing.assert_allclose((fitted.slope, fitted.intercept), (fit.coef_[0, 0], fit.intercept_[0]), rtol=1e-4)
    np.testing.assert_allclose(fitted.probability(margin), expit(fitted.slope * margin + fitted.intercept))


def test_isotonic_is_that_of_the_smoothed_targets() -> None:
    y, margin = drawn(300)
    expected = IsotonicRegression(out_of_bounds="clip").fit(margin, targets(y))
    new = np.linspace(-2, 2, 500)
    np.testing.assert_allclose(fit_calibrator(y, margin, "isotonic").probability(new), expected.predict(new))


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_of_many_patients_are_right_on_others(method: Method) -> None:
    fitted, (y, margin) = fit_calibrator(*drawn(4000), method), drawn(4000, seed=1)
    found = measure_calibration(y, fitted.probability(margin)).estimates
    assert abs(found.loc["intercept", "value"]) < 0.15
    assert abs(found.loc["slope", "value"] - 1) < 0.15


@given(
    margins=st.lists(st.floats(-1, 1).map(lambda m: m * 10.0 ** -(abs(hash(m)) % 7)), min_size=4, max_size=40),
    method=st.sampled_from(METHODS),
    data=st.data(),
)
@settings(max_examples=80, derandomize=True, deadline=None)
def test_always_monotone_finite_and_within_0_and_1(margins: list[float], method: Method, data: st.DataObject) -> None:
    y = [0, 1, *data.draw(st.lists(st.integers(0, 1), min_size=len(margins) - 2, max_size=len(margins) - 2))]
    fitted = fit_calibrator(y, margins, method)
    probability = fitted.probability(np.sort([*margins, -1e6, -1, 0, 1, 1e6]))
    assert ((probability > 0) & (probability < 1)).all()
    assert (np.diff(probability) >= 0).all()
    back = ANY.validate_python(json.loads(fitted.model_dump_json(), parse_constant=pytest.fail))
    assert back == fitted


def test_separated_constant_and_reversed_margins() -> None:
    y = np.array([0, 0, 0, 0, 1, 1])
    apart = fit_calibrator(y, [-0.2, -0.1, -0.2, -0.1, 0.1, 0.2], "platt").probability([-0.2, 0.2])
    assert 0 < apart[0] < 0.3 < 0.6 < apart[1] < 1
    for method in METHODS:
        for margins in (np.full(6, 0.2), [0.2, 0.1, 0.2, 0.1, -0.1, -0.2]):
            flat = fit_calibrator(y, margins, method).probability([-0.3, 0.0, 0.3])
            np.testing.assert_allclose(flat, targets(y).mean(), atol=1e-6)


def test_no_margin_no_probability_and_one_class_no_calibrator() -> None:
    for method in METHODS:
        assert np.isnan(fit_calibrator(*drawn(50), method).probability([np.nan, 0.1])).tolist() == [True, False]
        with pytest.raises(ValueError, match="both classes"):
            fit_calibrator([1, 1], [0.1, 0.2], method)
    for wrong in ({"slope": -1, "intercept": 0}, {"slope": 1, "intercept": float("nan")}):
        with pytest.raises(ValidationError):
            Platt.model_validate(wrong)


@pytest.mark.parametrize("method", METHODS)
def test_cross_calibration_never_sees_the_fold_it_is_for(method: Method) -> None:
    y, margin = drawn(200)
    fold = np.arange(200) % 4
    probability = cross_calibrated(fold, y, margin, method)
    for k in range(4):
        own = fold == k
        alone = fit_calibrator(y[~own], margin[~own], method)
        np.testing.assert_array_equal(probability[own], alone.probability(margin[own]))
        others = cross_calibrated(fold, np.where(own, 1 - y, y), margin, method)
        np.testing.assert_array_equal(others[own], probability[own])


def of_folds(n: int, correlation: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels [N] and margins of 4 folds [4, N] of new patients, whose noise is correlated between folds."""
    y = (rng.random(n) < 0.16).astype(int)
    shared, own = rng.normal(0, np.sqrt(correlation), n), rng.normal(0, np.sqrt(1 - correlation), (4, n))
    return y, 0.2 * (y - 0.5 + shared + own) + [[-0.05], [0], [0.02], [0.06]]


@pytest.mark.parametrize(("correlation", "flat"), [(0.3, 1.7), (0.6, 1.25), (0.9, 1.02)])
def test_probabilities_of_the_mean_over_folds_have_a_slope_of_one_on_new_patients(
    correlation: float, flat: float
) -> None:
    slopes = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        (y, margins), (_, unlabelled), (truth, new) = (of_folds(n, correlation, rng) for n in (480, 24, 8000))
        fold = np.arange(480) % 4
        single = margins[fold, np.arange(480)]
        moved = margins_of_mean(fold, y, single, folds=4, disagreement=disagreement(unlabelled))
        fits = fit_calibrator(y, single, "platt"), fit_calibrator(y, moved, "platt")
        slopes.append([measure_slope(truth, fitted.probability(new.mean(axis=0))) for fitted in fits])
    before, after = np.median(slopes, axis=0)
    assert before > flat
    assert after == pytest.approx(1, abs=0.12)


def measure_slope(y: np.ndarray, probability: np.ndarray) -> float:
    """Calibration slope, by scikit-learn."""
    fit = LogisticRegression(C=np.inf).fit(logit(probability)[:, None], y)
    return float(fit.coef_[0, 0])


def test_disagreement_is_the_variance_between_folds_apart_from_the_folds_own_level() -> None:
    rng = np.random.default_rng(0)
    patients, levels = rng.normal(0, 3, 5000), np.array([[0.0], [5], [-2]])
    margins = patients + levels + rng.normal(0, 0.5, (3, 5000))
    assert disagreement(margins) == pytest.approx(0.25, rel=0.05)
    assert disagreement(patients + levels) == pytest.approx(0, abs=1e-12)
    margins[1, :10] = np.nan
    assert disagreement(margins) == pytest.approx(disagreement(margins[:, 10:]))
    for too_few in (margins[:1], margins[:, :11]):
        assert np.isnan(disagreement(too_few))


def test_margins_of_the_mean_keep_the_classes_means_and_vary_less() -> None:
    (y, margins), fold = of_folds(4000, 0.5, np.random.default_rng(1)), np.arange(4000) % 4
    single = margins[fold, np.arange(4000)]
    moved = margins_of_mean(fold, y, single, folds=4, disagreement=disagreement(margins))
    for label in (0, 1):
        assert moved[y == label].mean() == pytest.approx(margins.mean(axis=0)[y == label].mean(), abs=0.01)
        assert moved[y == label].std() == pytest.approx(margins.mean(axis=0)[y == label].std(), rel=0.08)
    # Folds cannot disagree by more than independent ones do.
    least = margins_of_mean(fold, y, single, folds=4, disagreement=1e9)
    assert least[y == 0].std() == pytest.approx(0.1, rel=0.05)
