"""A frozen model on another cohort, and two models on the same patients: as tables, JSON and lines of a model card."""

from typing import Any

import pandas as pd
from rich.table import Table

from rlvo.cohort.selection import Selection
from rlvo.evaluation.answers import AnswerComparison, AnswerPerformance
from rlvo.evaluation.calibration import Calibration
from rlvo.evaluation.performance import INTERVAL_METHODS
from rlvo.report.calibration import format_calibration
from rlvo.report.console import format_interval, format_p, numeric, text_table

REPORTED = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "balanced_accuracy": "balanced accuracy",
    "auprc": "AUPRC",
}
CAPTION = f"95 % intervals (AUC: {INTERVAL_METHODS['auc']}); nothing was fitted to these patients."
Z = 1.959963984540054
"""Standard errors in half a 95 % interval."""


def answers_table(answers: AnswerPerformance, selection: Selection, *, title: str) -> Table:
    """Who was included and scored, and how good the model's answers are."""
    unanswered = f"{answers.unanswered} ({answers.unanswered_positives} with rLVO)" if answers.unanswered else "0"
    rows = [
        ["patients", str(selection.considered)],
        *([f"− {exclusion.rule}", str(len(exclusion.patients))] for exclusion in selection.excluded),
        ["− not scored", unanswered],
        ["scored", f"{answers.patients} ({answers.positives} with rLVO)"],
        *([name, _interval(answers.estimates, metric)] for metric, name in REPORTED.items()),
    ]
    if answers.calibration is None:
        rows.append(["calibration", "the model gives no probability"])
    else:
        rows += [line.split(" ", 1) for line in format_calibration(answers.calibration)]
    return text_table(["", numeric("")], rows, title=title, caption=CAPTION)


def comparison_table(comparison: AnswerComparison, names: tuple[str, str], *, title: str) -> Table:
    """Two models side by side, and the tests of whether they differ."""
    estimates, changed = (comparison.estimates_a, comparison.estimates_b), comparison.changed
    rows = [[name, *(_interval(each, metric) for each in estimates)] for metric, name in REPORTED.items()]
    rows[0].append(f"{format_difference(comparison)}, p {format_p(comparison.auc.p_value)}")  # of the AUCs
    decisions, alerts = comparison.decisions, [str((changed[f"rlvo_{each}"] == 1).sum()) for each in "ab"]
    rows += [
        ["right alone", str(decisions.only_a), str(decisions.only_b), f"p {format_p(decisions.p_value)}"],
        ["scored alone", str(comparison.only_a), str(comparison.only_b)],
        ["alert alone", *alerts, f"{len(changed)} changed answers"],
    ]
    return text_table(["", *map(numeric, (*names, "difference"))], rows, title=title, caption=CAPTION)


def format_difference(comparison: AnswerComparison) -> str:
    """The difference of the AUCs, a less b, with DeLong's interval."""
    auc = comparison.auc
    value, half = auc.auc_a - auc.auc_b, Z * auc.standard_error
    return f"{value:+.2f} ({value - half:+.2f} to {value + half:+.2f})".replace("-", "−")


def card_lines(answers: AnswerPerformance) -> list[str]:
    """Lines for a model card: counts, then every estimate with its interval."""
    lines = [f"{answers.patients} patients scored, {answers.positives} with rLVO"]
    if answers.unanswered:
        lines.append(f"not scored: {answers.unanswered}, {answers.unanswered_positives} with rLVO")
    lines.append("; ".join(f"{name} {_interval(answers.estimates, metric)}" for metric, name in REPORTED.items()))
    if answers.calibration is not None:
        lines.append("probability: " + "; ".join(format_calibration(answers.calibration)))
    return lines


def answers_json(answers: AnswerPerformance) -> dict[str, Any]:
    """Every count and estimate for JSON."""
    found = answers.calibration
    calibration = calibration_json(found) if found is not None else None
    estimates = answers.estimates.to_dict("index")
    return {**vars(answers), "estimates": estimates, "interval_methods": INTERVAL_METHODS, "calibration": calibration}


def calibration_json(found: Calibration) -> dict[Any, Any]:
    """Every estimate for JSON."""
    of_bins = {"ece": found.ece, "ece_if_calibrated": found.ece_if_calibrated}
    return {**found.estimates.to_dict("index"), **of_bins}


def comparison_json(comparison: AnswerComparison) -> dict[str, Any]:
    """Every count and estimate for JSON; names the patients whose answers changed."""
    counts = ("patients", "positives", "only_a", "only_b", "neither")
    return {
        **{name: getattr(comparison, name) for name in counts},
        "interval_methods": INTERVAL_METHODS,
        "estimates_a": comparison.estimates_a.to_dict("index"),
        "estimates_b": comparison.estimates_b.to_dict("index"),
        "delong": vars(comparison.auc),
        "mcnemar": vars(comparison.decisions),
        "mcnemar_chi2": vars(comparison.decisions_chi2),
        "changed": comparison.changed.reset_index(names="patient_id").to_dict("records"),
    }


def _interval(estimates: pd.DataFrame, metric: str) -> str:
    return format_interval(*estimates.loc[metric, ["value", "low", "high"]])
