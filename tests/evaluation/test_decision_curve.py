"""Net benefit against its definition, patient by patient."""

from __future__ import annotations

import numpy as np
import pytest

from rlvo.errors import RlvoError
from rlvo.evaluation.decision_curve import THRESHOLDS, decision_curve


def net_benefit(y: np.ndarray, alerted: np.ndarray, t: float) -> float:
    return float((y * alerted).mean() - ((1 - y) * alerted).mean() * t / (1 - t))


def test_the_curve_is_the_definition_and_its_interval_resampled_patients() -> None:
    random = np.random.default_rng(0)
    y = (random.random(200) < 0.2).astype(int)
    p = np.clip(random.normal(0.15 + 0.15 * y, 0.1), 0, 1).round(2)  # ties with the thresholds
    curve = decision_curve(y, p)
    assert list(curve["threshold"]) == list(THRESHOLDS)
    for row in curve.itertuples():
        assert row.model == pytest.approx(net_benefit(y, p >= row.threshold, row.threshold))
        assert row.treat_all == pytest.approx(net_benefit(y, np.ones(200), row.threshold))
        assert row.treat_none == 0
    at = curve[curve["threshold"] == 0.2].iloc[0]
    rows = random.integers(0, 200, (2000, 200))
    values = [net_benefit(y[drawn], p[drawn] >= 0.2, 0.2) for drawn in rows]
    np.testing.assert_allclose([at["low"], at["high"]], np.quantile(values, [0.025, 0.975]), atol=0.006)


def test_a_perfect_model_gains_the_prevalence_and_alerting_on_all_breaks_even_there() -> None:
    y = np.array([1, 0, 0, 0])
    curve = decision_curve(y, y, [0.1, 0.25, 0.9])
    assert list(curve["model"]) == [0.25] * 3
    assert curve["treat_all"][1] == pytest.approx(0)


def test_a_threshold_is_within_0_and_1() -> None:
    for wrong in (0.0, 1.0, -0.1):
        with pytest.raises(RlvoError, match="between 0 and 1"):
            decision_curve([0, 1], [0.1, 0.9], [wrong])
