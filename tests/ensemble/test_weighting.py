"""Weightings against their formulas written out."""

import numpy as np
import pytest

from rlvo.ensemble.weighting import Weighting, class_rate_weighted, combine, undecided


def test_class_rates_equal_the_formula_written_out() -> None:
    rng = np.random.default_rng(0)
    p, tpr, tnr = rng.random((3, 40)), rng.random(3), rng.random(3)
    support, opposition = tpr @ p, tnr @ (1 - p)
    expected = support / (support + opposition)
    np.testing.assert_allclose(class_rate_weighted(p, tpr, tnr), expected, rtol=0, atol=1e-12)


def test_one_perfect_member_keeps_its_probability_and_equal_rates_give_the_mean() -> None:
    p = np.array([[0.1, 0.5, 0.9], [0.3, 0.7, 0.2]])
    np.testing.assert_allclose(class_rate_weighted(p[:1], [1], [1]), p[0])
    np.testing.assert_allclose(class_rate_weighted(p, [0.6, 0.6], [0.6, 0.6]), p.mean(axis=0))


def test_a_member_that_never_finds_positives_only_argues_against() -> None:
    p = np.array([[0.8], [0.8]])
    assert class_rate_weighted(p, [0.7, 0.0], [0.7, 1.0])[0] < class_rate_weighted(p[:1], [0.7], [0.7])[0]


def test_nothing_to_divide_is_a_half_and_flagged_but_not_a_number_stays_so() -> None:
    p = np.array([[1.0, 0.4, np.nan], [1.0, 0.4, 0.5]])
    score = class_rate_weighted(p, [0, 0], [1, 1])
    assert score[0] == 0.5
    assert score[1] == 0
    assert np.isnan(score[2])
    assert undecided(p, [0, 0], [1, 1]).tolist() == [True, False, False]


def test_the_other_weightings() -> None:
    rng = np.random.default_rng(1)
    p, tpr, tnr = rng.random((3, 9)), rng.random(3), rng.random(3)
    weights = (tpr + tnr) / 2
    np.testing.assert_allclose(combine("balanced_accuracy", p, tpr, tnr), weights @ p / weights.sum())
    np.testing.assert_allclose(combine("mean", p, tpr, tnr), p.sum(axis=0) / 3)
    np.testing.assert_array_equal(combine("class_rates", p, tpr, tnr), class_rate_weighted(p, tpr, tnr))
    np.testing.assert_allclose(combine("balanced_accuracy", p, [0, 0, 0], [0, 0, 0]), p.mean(axis=0))


@pytest.mark.parametrize("weighting", ["class_rates", "balanced_accuracy", "mean"])
def test_scores_are_probabilities_and_keep_the_patients_order(weighting: Weighting) -> None:
    rng = np.random.default_rng(2)
    p, tpr, tnr, order = rng.random((3, 50)), rng.random(3), rng.random(3), rng.permutation(50)
    score = combine(weighting, p, tpr, tnr)
    assert ((score >= 0) & (score <= 1)).all()
    np.testing.assert_array_equal(combine(weighting, p[:, order], tpr, tnr), score[order])
