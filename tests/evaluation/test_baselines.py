"""Baselines against statsmodels and on what is not linear."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from rlvo.evaluation.baselines import PENALTY, fit_boosting, fit_logistic, fit_ridge


def test_it_is_statsmodels_maximum_likelihood() -> None:
    random = np.random.default_rng(0)
    x = random.random((400, 5)).astype(np.float32)
    y = random.random(400) < 1 / (1 + np.exp(-(x @ [2, -1, 0, 0.5, 3] - 2)))
    fit = fit_logistic(x, y)
    expected = sm.Logit(y, sm.add_constant(x.astype(float))).fit(disp=0)
    np.testing.assert_allclose([fit.intercept, *fit.coefficients], expected.params, atol=2e-3)
    np.testing.assert_allclose(fit.predict(x), expected.predict(), atol=1e-4)


def test_separation_and_constant_columns_warn_of_nothing() -> None:
    x = np.random.default_rng(1).random((60, 4))
    x[:, 3] = 0
    y = x[:, 0] > 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probability = fit_logistic(x, y).predict(x)
    assert np.array_equal(probability > 0.5, y)
    assert np.all((probability >= 0) & (probability <= 1))


def test_the_ridge_is_scikit_learns_on_standardised_predictors_whatever_their_units() -> None:
    random = np.random.default_rng(3)
    x = random.random((200, 5)) * [1, 10, 0.1, 1, 0]  # the last is constant
    y = random.random(200) < 1 / (1 + np.exp(-(x @ [2, -0.1, 0, 0.5, 0])))
    fit = fit_ridge(x, y)
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, tol=1e-8)).fit(x, y)
    np.testing.assert_allclose(fit.predict(x), expected.predict_proba(x)[:, 1], atol=1e-4)
    units = np.array([3.0, 0.01, 100, 1, 7])
    np.testing.assert_allclose(fit_ridge(x * units + 5, y).predict(x * units + 5), fit.predict(x), atol=1e-6)
    assert abs(fit.coefficients[0]) < abs(fit_logistic(x[:, :4], y).coefficients[0])


@pytest.mark.parametrize("fit", [fit_logistic, fit_ridge, fit_boosting])
def test_one_class_is_refused(fit: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="both classes"):
        fit(np.zeros((3, 1)), [1, 1, 1])


def test_boosting_finds_what_is_not_linear_and_answers_alike_on_any_number_of_threads() -> None:
    random = np.random.default_rng(2)
    x = random.random((800, 6)).astype(np.float32)
    y = (np.abs(x[:, 0] - 0.5) > 0.25) ^ (random.random(800) < 0.1)
    fit = fit_boosting(x[:400], y[:400])
    probability = fit.predict(x[400:])
    assert roc_auc_score(y[400:], probability) > 0.8
    assert roc_auc_score(y[400:], fit_logistic(x[:400], y[:400]).predict(x[400:])) < 0.6
    with threadpool_limits(1):
        np.testing.assert_array_equal(fit_boosting(x[:400], y[:400]).predict(x[400:]), probability)
    np.testing.assert_array_equal(fit.predict(x[403:404]), probability[3:4])
