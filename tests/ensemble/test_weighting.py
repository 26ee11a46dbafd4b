"""Weightings against their formulas written out."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from rlvo.ensemble.weighting import RIDGE, Weighting, class_rate_weighted, combine, fit_stack, undecided


def test_nothing_to_divide_is_a_half_and_flagged_but_not_a_number_stays_so() -> None:
    p = np.array([[1.0, 0.4, np.nan], [1.0, 0.4, 0.5]])
    score = class_rate_weighted(p, [0, 0], [1, 1])
    assert score[0] == 0.5
    assert score[1] == 0
    assert np.isnan(score[2])
    assert undecided(p, [0, 0], [1, 1]).tolist() == [True, False, False]


def test_they_equal_their_formulas_written_out() -> None:
    rng = np.random.default_rng(1)
    p, tpr, tnr = rng.random((3, 40)), rng.random(3), rng.random(3)
    support, opposition = tpr @ p, tnr @ (1 - p)
    expected = support / (support + opposition)
    np.testing.assert_allclose(class_rate_weighted(p, tpr, tnr), expected, rtol=0, atol=1e-12)
    weights = (tpr + tnr) / 2
    np.testing.assert_allclose(combine("balanced_accuracy", p, tpr, tnr), weights @ p / weights.sum())
    np.testing.assert_allclose(combine("mean", p, tpr, tnr), p.sum(axis=0) / 3)
    np.testing.assert_array_equal(combine("class_rates", p, tpr, tnr), class_rate_weighted(p, tpr, tnr))
    np.testing.assert_allclose(combine("balanced_accuracy", p, [0, 0, 0], [0, 0, 0]), p.mean(axis=0))
    odds = (p / (1 - p)) ** np.array([[0.5], [0.25], [0.0]])  # the third is no better than chance
    product = odds[0] ** (2 / 1.5) * odds[1] ** (2 / 1.5)
    expected = product / (1 + product)
    np.testing.assert_allclose(combine("youden", p, [0.8, 0.5, 0.3], [0.7, 0.75, 0.6]), expected)
    equal = combine("youden", p, [0.2, 0.5, 0.3], [0.7, 0.5, 0.6])
    np.testing.assert_allclose(equal, expit(logit(p).mean(axis=0)))
    with pytest.raises(ValueError, match="slopes"):
        combine("stacked", p, tpr, tnr)


@pytest.mark.parametrize("weighting", ["class_rates", "balanced_accuracy", "mean", "youden"])
def test_scores_are_probabilities_and_keep_the_patients_order(weighting: Weighting) -> None:
    rng = np.random.default_rng(2)
    p, tpr, tnr, order = rng.random((3, 50)), rng.random(3), rng.random(3), rng.permutation(50)
    score = combine(weighting, p, tpr, tnr)
    assert ((score >= 0) & (score <= 1)).all()
    np.testing.assert_array_equal(combine(weighting, p[:, order], tpr, tnr), score[order])


def test_a_stack_is_the_ridge_regression_of_scikit_learn_drawn_towards_equal_slopes() -> None:
    """With slopes 1/M + d, the ridge on d is that of a regression with the mean log-odds as an offset."""
    rng = np.random.default_rng(3)
    label = rng.random(300) < 0.4
    z = rng.normal(size=(2, 300)) + 1.2 * label * np.array([[1.0], [1.5]])
    stack = fit_stack(label, expit(z), [True, True])
    assert min(stack.slopes) > 0.5

    def loss(intercept: float, slopes: tuple[float, ...]) -> float:
        score = intercept + np.asarray(slopes) @ z
        away = np.asarray(slopes) - 0.5
        return float(np.sum(np.logaddexp(0, score) - label * score) + RIDGE / 2 * away @ away)

    best = loss(stack.intercept, stack.slopes)
    for step in (-0.02, 0.02):
        assert loss(stack.intercept + step, stack.slopes) > best
        assert loss(stack.intercept, (stack.slopes[0] + step, stack.slopes[1])) > best
        assert loss(stack.intercept, (stack.slopes[0], stack.slopes[1] + step)) > best
    unpenalised = LogisticRegression(C=np.inf).fit(z.T, label)
    np.testing.assert_allclose(stack.slopes, unpenalised.coef_[0], atol=0.1)
    np.testing.assert_allclose(stack.score(expit(z)), expit(stack.intercept + stack.slopes @ z), rtol=1e-6)


def test_a_stack_ignores_members_that_abstain_or_speak_against_the_truth() -> None:
    rng = np.random.default_rng(4)
    label = rng.random(400) < 0.4
    z = rng.normal(size=(3, 400)) + np.array([[1.5], [1.5], [-1.5]]) * label
    stack = fit_stack(label, expit(z), [True, False, True])
    assert stack.slopes[0] > 0.5
    assert stack.slopes[1:] == (0.0, 0.0)
    silent = fit_stack(label, expit(z), [False, False, False])
    assert silent.slopes == (0.0, 0.0, 0.0)
    assert expit(silent.intercept) == pytest.approx(label.mean(), abs=1e-4)
