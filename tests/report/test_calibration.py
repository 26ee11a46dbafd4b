"""Reliability and decision curves draw the numbers they are given; calibration is told with intervals."""

import numpy as np
import pandas as pd
import pytest

from rlvo.evaluation.calibration import Calibration, decision_curve, measure_calibration, reliability_curve
from rlvo.report.calibration import (
    Reliability,
    decision_curve_plot,
    format_benefit,
    format_calibration,
    reliability_plot,
)


@pytest.fixture(scope="module")
def probability() -> np.ndarray:
    return np.random.default_rng(1).beta(1, 4, 300)


@pytest.fixture(scope="module")
def label(probability: np.ndarray) -> np.ndarray:
    return (np.random.default_rng(2).random(len(probability)) < probability).astype(int)


def test_each_models_panel_holds_curve_intervals_and_all_patients(probability: np.ndarray, label: np.ndarray) -> None:
    curve, found = reliability_curve(label, probability), measure_calibration(label, probability)
    model = Reliability(label, probability, found)
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
    assert [text.get_text() for text in curves.texts] == ["\n".join(format_calibration(found))]
    assert np.ptp(curves.get_window_extent().size) == pytest.approx(0, abs=1)


def test_a_rare_outcome_fills_the_axes_and_the_picture_says_what_it_is_about() -> None:
    random = np.random.default_rng(1)
    rare = np.r_[random.beta(1, 20, 399), 0.9]
    label = (random.random(400) < rare).astype(int)
    model = Reliability(label, rare, measure_calibration(label, rare))
    figure = reliability_plot({"a": model}, about="validation")
    end = figure.axes[1].get_xlim()[1]
    assert end < 0.5
    heights = [sum(bar.get_height() for bar in container) for container in figure.axes[0].containers]
    assert sum(heights) == len(rare)  # the one at 0.9 is in the last bar
    assert "last bar" in figure.axes[0].get_xlabel()
    assert end == figure.axes[0].get_xlim()[1] == figure.axes[1].get_ylim()[1]
    assert figure.get_suptitle() == "validation"
    assert decision_curve_plot({"a": decision_curve(label, rare)}, about="validation").get_suptitle() == "validation"


def test_net_benefit_is_drawn_for_every_model_all_and_none(probability: np.ndarray, label: np.ndarray) -> None:
    curve = decision_curve(label, probability)
    [axes] = decision_curve_plot({"clinical": curve, "again": curve}).axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines) == ["alert all", "alert none", "clinical", "again"]
    for name, column in (("alert all", "treat_all"), ("alert none", "treat_none"), ("clinical", "model")):
        assert lines[name] == pytest.approx(curve[column].to_numpy())
    low, high = axes.get_ylim()
    assert low < 0 < curve["high"].max() < high


def test_calibration_is_told_with_intervals() -> None:
    nan = float("nan")
    rows = {"brier": (0.1, 0.05, 0.2), "intercept": (-0.2, -0.5, 0.1), "slope": (nan, nan, nan)}
    estimates = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])
    assert format_calibration(Calibration(estimates, 0.03, (0.01, 0.05))) == (
        "Brier 0.10 (0.05 to 0.20)",
        "Intercept −0.20 (−0.50 to 0.10)",
        "Slope not estimable",
        "ECE 0.030 (if calibrated 0.010–0.050)",
    )


def test_benefit_is_counted_where_alerting_by_the_model_is_best() -> None:
    curve = pd.DataFrame(
        {"threshold": [0.1, 0.2, 0.3], "model": [0.2, 0.3, -0.1], "treat_all": [0.2, 0.1, -0.2], "treat_none": 0.0}
    )
    assert "at 1 of 3 thresholds, 0.10–0.30" in format_benefit(curve)
