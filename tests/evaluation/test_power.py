"""Precision and power of an AUC, against values worked out elsewhere and simulated patients."""

import numpy as np
import pytest
from scipy.stats import rankdata

from rlvo.evaluation.power import auc_power, auc_standard_error


def test_what_the_papers_hold_out_can_show() -> None:
    found = auc_power(118, 16)
    assert found.standard_error == pytest.approx(0.077, abs=5e-4)
    assert found.power == pytest.approx(0.25, abs=5e-3)


def test_simulated_patients_vary_as_much() -> None:
    rng, positives, negatives = np.random.default_rng(0), 16, 102
    rate = 0.7 / 0.3  # exponential scores, as the formula assumes: P(positive > negative) = rate / (1 + rate)
    scores = np.hstack([rng.exponential(rate, (4000, positives)), rng.exponential(1, (4000, negatives))])
    ranks = rankdata(scores, axis=1)[:, :positives].sum(axis=1)
    aucs = (ranks - positives * (positives + 1) / 2) / (positives * negatives)
    assert aucs.mean() == pytest.approx(0.7, abs=0.005)
    assert aucs.std() == pytest.approx(auc_standard_error(0.7, positives, negatives), rel=0.04)


def test_more_patients_show_more_and_one_class_nothing() -> None:
    powers = [auc_power(100 * n, 15 * n).power for n in (1, 4, 16)]
    assert powers == sorted(powers)
    assert powers[-1] > 0.99
    assert auc_power(50, 20, auc=0.6).power == pytest.approx(0.05)
    assert np.isnan([auc_power(10, 0).power, auc_power(10, 10).standard_error]).all()
