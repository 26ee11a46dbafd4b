"""A frozen model on another cohort, and two models on the same patients, as tables and as lines of a model card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
from rich.table import Table

from rlvo.cohort.selection import Selection
from rlvo.evaluation.answers import AnswerComparison, AnswerFigures
from rlvo.report.calibration import calibration_words
from rlvo.report.forest import p_words

SHOWN = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "balanced_accuracy": "balanced accuracy",
    "auprc": "AUPRC",
}
Z = 1.959963984540054
"""Of a 95 % interval."""


def figures_table(figures: AnswerFigures, selection: Selection, *, title: str) -> Table:
    """Who was included and answered for, and what the answers are worth."""
    table = _table(title)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("patients", str(selection.considered))
    for exclusion in selection.excluded:
        table.add_row(f"− {exclusion.rule}", str(len(exclusion.patients)))
    unanswered = f"{figures.unanswered} ({figures.unanswered_positives} with rLVO)" if figures.unanswered else "0"
    table.add_row("− not answered", unanswered)
    table.add_row("answered", f"{figures.patients} ({figures.positives} with rLVO)", end_section=True)
    for metric, name in SHOWN.items():
        table.add_row(name, _interval(figures.estimates, metric))
    if figures.calibration is None:
        table.add_row("calibration", "the model gives no probability")
    else:
        for words in calibration_words(figures.calibration):
            name, _, value = words.partition(" ")
            table.add_row(name, value)
    return table


def comparison_table(comparison: AnswerComparison, names: tuple[str, str], *, title: str) -> Table:
    """Two models side by side, and the tests of whether they differ."""
    table = _table(title)
    table.add_column("")
    for name in (*names, "difference"):
        table.add_column(name, justify="right")
    auc, decisions, changed = comparison.auc, comparison.decisions, comparison.changed
    differences = {"auc": f"{difference_words(comparison)}, p {p_words(auc.p_value)}"}
    for metric, name in SHOWN.items():
        shown = (_interval(each, metric) for each in (comparison.estimates_a, comparison.estimates_b))
        table.add_row(name, *shown, differences.get(metric, ""))
    mcnemar = f"p {p_words(decisions.p_value)}"
    table.add_row("right alone", str(decisions.only_a), str(decisions.only_b), mcnemar)
    table.add_row("answered alone", str(comparison.only_a), str(comparison.only_b), "")
    alerts = [int((changed[f"rlvo_{which}"] == 1).sum()) for which in "ab"]
    table.add_row("alert alone", *map(str, alerts), f"{len(changed)} changed answers")
    return table


def difference_words(comparison: AnswerComparison) -> str:
    """The difference of the AUCs, a less b, with DeLong's interval."""
    auc = comparison.auc
    value, half = auc.auc_a - auc.auc_b, Z * auc.standard_error
    return f"{value:+.2f} ({value - half:+.2f} to {value + half:+.2f})".replace("-", "−")


def figure_lines(figures: AnswerFigures) -> list[str]:
    """For a model card: counts, then every figure with its interval."""
    lines = [f"{figures.patients} patients answered for, {figures.positives} with rLVO"]
    if figures.unanswered:
        lines.append(f"not answered for: {figures.unanswered}, {figures.unanswered_positives} with rLVO")
    lines.append("; ".join(f"{name} {_interval(figures.estimates, metric)}" for metric, name in SHOWN.items()))
    if figures.calibration is not None:
        lines.append("probability: " + "; ".join(calibration_words(figures.calibration)))
    return lines


def figures_json(figures: AnswerFigures) -> dict[str, Any]:
    """Every figure, as JSON has it."""
    found = figures.calibration
    calibration: Mapping[Any, Any] | None = None
    if found is not None:
        calibration = {
            **found.estimates.to_dict("index"),
            "ece": found.ece,
            "ece_if_calibrated": found.ece_if_calibrated,
        }
    counts = ("patients", "positives", "unanswered", "unanswered_positives")
    return {
        **{name: getattr(figures, name) for name in counts},
        "estimates": figures.estimates.to_dict("index"),
        "calibration": calibration,
    }


def comparison_json(comparison: AnswerComparison) -> dict[str, Any]:
    """Every figure, as JSON has it; names the patients whose answers changed."""
    counts = ("patients", "positives", "only_a", "only_b", "neither")
    return {
        **{name: getattr(comparison, name) for name in counts},
        "estimates_a": comparison.estimates_a.to_dict("index"),
        "estimates_b": comparison.estimates_b.to_dict("index"),
        "delong": vars(comparison.auc),
        "mcnemar": vars(comparison.decisions),
        "changed": comparison.changed.reset_index(names="patient_id").to_dict("records"),
    }


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        caption="95 % intervals; nothing was fitted to these patients.",
        caption_justify="left",
        box=None,
        pad_edge=False,
    )


def _interval(estimates: pd.DataFrame, metric: str) -> str:
    value, low, high = (float(estimates.loc[metric, column]) for column in ("value", "low", "high"))  # type: ignore[arg-type]
    return "n.e." if math.isnan(value) else f"{value:.2f} ({low:.2f}–{high:.2f})"
