"""Baselines as tables and pictures: metrics over folds, odds ratios, calibration, net benefit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from rlvo.evaluation.calibration import Calibration, reliability
from rlvo.evaluation.decision_curve import decision_curve
from rlvo.evaluation.figures import figures
from rlvo.report.calibration import Reliability, calibration_words, decision_curve_plot, reliability_plot
from rlvo.report.forest import forest_plot, odds_words, p_words
from rlvo.report.labels import term_label
from rlvo.report.style import write_picture
from rlvo.report.tables import Performance
from rlvo.training.baseline import BaselineResult

HEADINGS = {
    "auc": "AUC",
    "auprc": "AUPRC",
    "balanced_accuracy": "bal.\nacc.*",
    "f1": "F1*",
    "sensitivity": "sens.*",
    "specificity": "spec.*",
}


def baseline_performance(
    results: Mapping[str, BaselineResult], test: pd.DataFrame, label: pd.Series
) -> dict[str, Performance]:
    """Each baseline as the networks are shown: validation metrics, and figures on the hold-out, which this opens.

    Args:
        results: of `clinical_baselines`.
        test: the hold-out's rows of the checked table.
        label: 0 or 1, by patient id.
    """
    models = {}
    for name, result in results.items():
        answers = result.score(test)
        holdout = figures(label.loc[test.index], answers["score"], answers["rlvo"])
        models[name] = Performance(result.validation_metrics(), holdout)
    return models


def baseline_table(metrics: Mapping[str, pd.DataFrame], *, title: str) -> Table:
    """A row a baseline, mean ± SD over folds.

    Args:
        metrics: for each baseline `over_folds` of its validation metrics.
    """
    table = Table(
        title=title,
        title_justify="left",
        caption="Validation. * Optimistic: thresholds were chosen on the same patients.",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("")
    for heading in HEADINGS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    for name, values in metrics.items():
        rows: dict[Any, Any] = values.to_dict("index")
        table.add_row(name, *(_mean_sd(**rows[metric]) for metric in HEADINGS))
    return table


def _mean_sd(mean: float, sd: float, folds: float) -> str:
    if not folds:
        return "n.e."
    return f"{mean:.2f}" if math.isnan(sd) else f"{mean:.2f}±{sd:.2f}"


def odds_table(odds: pd.DataFrame) -> Table:
    """A row a term: odds ratio, 95 % interval and p, or why it is not estimable."""
    table = Table(box=None, pad_edge=False)
    for heading, side in (("", "left"), ("OR (95 % CI)", "left"), ("p", "right")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for row in odds.to_dict("records"):
        label = term_label(row["term"], row["unit"])
        if pd.isna(row["odds_ratio"]):
            table.add_row(label, f"not estimable: {row['note']}", "")
        else:
            table.add_row(label, odds_words(row["odds_ratio"], row["low"], row["high"]), p_words(row["p"]))
    return table


def draw_baselines(
    folder: Path,
    odds: pd.DataFrame,
    validation: Mapping[str, pd.DataFrame],
    calibrations: Mapping[str, Calibration],
    *,
    title: str,
) -> list[Path]:
    """Write `odds_ratios`, `calibration` and `decision_curve` as SVG and PNG; their paths.

    Args:
        odds: of `clinical_odds`.
        validation: predictions (`evaluation.predictions`) of each baseline to draw.
        calibrations: of the same baselines.
        title: of the forest plot.
    """
    curves = {
        name: Reliability(
            reliability(own["label"], own["probability"]),
            own["probability"].to_numpy(),
            own["label"].to_numpy(),
            calibration_words(calibrations[name]),
        )
        for name, own in validation.items()
    }
    benefits = {name: decision_curve(own["label"], own["probability"]) for name, own in validation.items()}
    drawn = {
        "odds_ratios": forest_plot(odds, title=title),
        "calibration": reliability_plot(curves),
        "decision_curve": decision_curve_plot(benefits),
    }
    return [path for name, figure in drawn.items() for path in write_picture(figure, folder / name)]
