"""Baselines as tables and pictures: what is optimistic and what is not estimable is said."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from rlvo.evaluation.calibration import Calibration
from rlvo.evaluation.metrics import over_folds
from rlvo.report.baselines import baseline_table, draw_baselines, odds_table
from rlvo.report.calibration import calibration_words

METRICS = ("auc", "auprc", "balanced_accuracy", "f1", "sensitivity", "specificity")
NAN = float("nan")
ODDS = pd.DataFrame(
    [("nihss", "per point", 1.04, 0.9, 1.2, 0.05, ""), ("smoking", "vs no", NAN, NAN, NAN, NAN, "constant")],
    columns=["term", "unit", "odds_ratio", "low", "high", "p", "note"],
)


def calibrated(slope: float) -> Calibration:
    estimates = pd.DataFrame(
        {"value": [0.1, -0.2, slope], "low": [0.05, -0.5, slope], "high": [0.2, 0.1, slope]},
        index=["brier", "intercept", "slope"],
    )
    return Calibration(estimates, 0.03, (0.01, 0.05))


def printed(table: Table) -> str:
    text = io.StringIO()
    Console(file=text, width=80).print(table)
    return text.getvalue()


def test_a_line_holds_mean_and_sd_over_folds_in_a_terminal() -> None:
    folds = pd.DataFrame({metric: [0.6, 0.8] for metric in METRICS} | {"f1": [NAN, NAN], "auprc": [0.5, NAN]})
    text = printed(baseline_table({"NIHSS + ASPECTS": over_folds(folds)}, title="t"))
    [line] = [line for line in text.splitlines() if line.startswith("NIHSS")]
    assert line.split() == ["NIHSS", "+", "ASPECTS", "0.70±0.14", "0.50", "0.70±0.14", "n.e.", "0.70±0.14", "0.70±0.14"]
    assert "* Optimistic" in text


def test_odds_ratios_that_are_not_estimable_say_why() -> None:
    text = printed(odds_table(ODDS))
    assert "1.04 (0.90–1.20)" in text
    assert "not estimable: constant" in text


def test_calibration_is_told_with_intervals() -> None:
    words = ", ".join(calibration_words(calibrated(NAN)))
    assert "Intercept −0.20 (−0.50 to 0.10)" in words
    assert "Slope not estimable" in words
    assert "ECE 0.030 (if calibrated 0.010–0.050)" in words


def test_pictures_are_written_as_vectors_and_pixels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    validation = pd.DataFrame({"label": random.integers(0, 2, 60), "probability": random.random(60)})
    paths = draw_baselines(tmp_path, ODDS, {"a": validation}, {"a": calibrated(1.0)}, title="t")
    names = {f"{name}.{kind}" for name in ("odds_ratios", "calibration", "decision_curve") for kind in ("svg", "png")}
    assert {path.name for path in paths} == {path.name for path in tmp_path.iterdir()} == names
