"""Weightings against their formulas written out."""

import numpy as np
import pytest

from rlvo.ensemble.weighting import Weighting, class_rate_weighted, combine, undecided


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


@pytest.mark.parametrize("weighting", ["class_rates", "balanced_accuracy", "mean"])
def test_scores_are_probabilities_and_keep_the_patients_order(weighting: Weighting) -> None:
    rng = np.random.default_rng(2)
    p, tpr, tnr, order = rng.random((3, 50)), rng.random(3), rng.random(3), rng.permutation(50)
    score = combine(weighting, p, tpr, tnr)
    assert ((score >= 0) & (score <= 1)).all()
    np.testing.assert_array_equal(combine(weighting, p[:, order], tpr, tnr), score[order])
