"""Reliability and decision curves draw the numbers they are given."""

from __future__ import annotations

import numpy as np
import pytest

from rlvo.evaluation.calibration import reliability
from rlvo.evaluation.decision_curve import decision_curve
from rlvo.report.calibration import Reliability, decision_curve_plot, reliability_plot


@pytest.fixture(scope="module")
def probability() -> np.ndarray:
    return np.random.default_rng(1).beta(1, 4, 300)


@pytest.fixture(scope="module")
def label(probability: np.ndarray) -> np.ndarray:
    return (np.random.default_rng(2).random(len(probability)) < probability).astype(int)


def test_a_panel_a_model_holds_curve_interval_and_everybody(probability: np.ndarray, label: np.ndarray) -> None:
    curve = reliability(label, probability)
    model = Reliability(curve, probability, label, ("Brier 0.12",))
    figure = reliability_plot({"a": model, "b": model})
    assert len(figure.axes) == 4
    histogram, curves = figure.axes[:2]
    [bars] = curves.containers
    points, _, [intervals] = bars.lines
    assert points.get_xydata() == pytest.approx(curve[["predicted", "observed"]].to_numpy())
    ends = np.array([segment[:, 1] for segment in intervals.get_segments()])
    assert ends == pytest.approx(curve[["low", "high"]].to_numpy())
    heights = [sum(bar.get_height() for bar in container) for container in histogram.containers]
    assert heights == [np.sum(label == 0), np.sum(label == 1)]
    assert [text.get_text() for text in curves.texts] == ["Brier 0.12"]
    assert np.ptp(curves.get_window_extent().size) == pytest.approx(0, abs=1)


def test_net_benefit_is_drawn_for_every_model_all_and_none(probability: np.ndarray, label: np.ndarray) -> None:
    curve = decision_curve(label, probability)
    [axes] = decision_curve_plot({"clinical": curve, "again": curve}).axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines) == ["alert all", "alert none", "clinical", "again"]
    for name, column in (("alert all", "treat_all"), ("alert none", "treat_none"), ("clinical", "model")):
        assert lines[name] == pytest.approx(curve[column].to_numpy())
    low, high = axes.get_ylim()
    assert low < 0 < curve["high"].max() < high
