"""What one patient's table values do to the answer, and where they lie among those of the training patients."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlvo.cohort.labels import format_numbers, format_value, variable_label, variable_name
from rlvo.cohort.variables import VARIABLES, Variable
from rlvo.report.exhibit import Exhibit
from rlvo.report.style import BLUE, GREY, INK, ORANGE, PALE_INK, paper_style

MOST_BARS = 12
WIDTH = 4.9
"""In inches: small enough to be read on a phone."""
ANSWERS = ("no alert", "alert")
IF_TYPICAL = "Answer if this alone were typical"


def decision_exhibit(
    values: pd.DataFrame,
    typical_score: float,
    score: float,
    rlvo: int,
    variables: Mapping[str, Variable] = VARIABLES,
) -> Exhibit:
    """How a patient's values lead from the score with typical values to the answer's.

    Args:
        values: one row per predictor, the largest effect first: `predictor`, `value`, `typical`, `contribution`,
            `score_if_typical`, `rlvo_if_typical`.
        typical_score: with the patient's images and typical values.
        score, rlvo: those of the answer.
        variables: what is known of the predictors.
    """
    rows = [
        {
            "Predictor": variable_label(row["predictor"], variables),
            "This patient": format_value(row["predictor"], row["value"], variables),
            "Typical": format_value(row["predictor"], row["typical"], variables),
            "Added to the score": format_signed(row["contribution"]),
            "Score if this alone were typical": format_signed(row["score_if_typical"]),
            IF_TYPICAL: ANSWERS[row["rlvo_if_typical"]],
        }
        for row in _rows(values)
    ]
    turned = [number for number, each in enumerate(values["rlvo_if_typical"]) if each != rlvo]
    changes = f"{len(turned)} of {len(values)} values" if turned else "none of the values"
    return Exhibit(
        "decision",
        "What moved the decision",
        values[["predictor", "value", "typical", "contribution", "score_if_typical", "rlvo_if_typical"]],
        caption=f"Shapley values of the score. With typical values for all predictors, these images would score "
        f"{format_signed(typical_score)}; with the patient's own they score {format_signed(score)}. "
        "Orange: towards rLVO; blue: away from it. Taken alone, "
        f"{changes} would change the answer if typical (in bold). It is the model that is described, not the disease.",
        shown=pd.DataFrame(rows),
        best=frozenset((number, IF_TYPICAL) for number in turned),
        figure=decision_figure(values, typical_score, score, variables),
    )


@paper_style
def decision_figure(
    values: pd.DataFrame, typical_score: float, score: float, variables: Mapping[str, Variable] = VARIABLES
) -> Figure:
    """Draw the steps from the score with typical values to the answer's; arguments as for `decision_exhibit`."""
    moving = values[values["contribution"].abs() > 0]
    most = MOST_BARS if len(moving) > MOST_BARS + 1 else len(moving)  # "1 other" would say less than its name
    shown, others = moving.head(most), moving.iloc[most:]
    labels = [
        f"{variable_name(row['predictor'])}: {format_value(row['predictor'], row['value'], variables)} "
        f"({format_value(row['predictor'], row['typical'], variables)})"
        for row in _rows(shown)
    ]
    steps = shown["contribution"].to_list()
    if len(others):
        labels.append(f"{len(others)} other{'s' if len(others) > 1 else ''}")
        steps.append(float(others["contribution"].sum()))
    figure = Figure(figsize=(WIDTH, 0.9 + 0.21 * (len(steps) + 2)), layout="constrained")
    axes = figure.subplots()
    starts = typical_score + np.cumsum([0.0, *steps])
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, (start, step) in enumerate(zip(starts, steps, strict=False), 1):
        axes.barh(place, step, left=start, height=0.66, color=ORANGE if step > 0 else BLUE)
        axes.plot([start + step] * 2, [place - 0.33, place + 1.33], color=GREY, linewidth=0.6)
        _note(axes, max(start, start + step), place, step)
    for place, value in ((0, typical_score), (len(steps) + 1, score)):
        axes.plot([value], [place], marker="D", color=INK, markersize=4)
        _note(axes, value, place, value)
    axes.set_yticks(range(len(steps) + 2), ["These images, typical values", *labels, "The answer's score"])
    axes.set_ylim(len(steps) + 1.6, -0.6)
    axes.use_sticky_edges = False  # or bars would touch the frame
    axes.margins(x=0.14)
    axes.grid(axis="x", color=PALE_INK, linewidth=0.4)
    axes.set_axisbelow(True)
    axes.set_xlabel("Score; above 0 it speaks for rLVO\nIn brackets: typical values")
    return figure


def _note(axes: Axes, x: float, y: float, value: float) -> None:
    behind = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6}
    at = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(format_signed(value), (x, y), fontsize=6.5, bbox=behind, **at)  # type: ignore[arg-type]


def training_exhibit(
    values: pd.DataFrame, patients: int | None, variables: Mapping[str, Variable] = VARIABLES
) -> Exhibit:
    """Where a patient's values lie among those of the training patients.

    Args:
        values: one row per predictor: `predictor`, `value`, `typical`, `lowest`, `highest`, `percentiles` (the nearest
            known ones below and above), `same` and `known` (numbers of training patients); None if not known.
        patients: how many training patients there were; None if that is not known.
        variables: what is known of the predictors.
    """
    rows = [
        {
            "Predictor": variable_label(row["predictor"], variables),
            "This patient": _numbers(row, variables)[0],
            "Among the training patients": place_in_words(row),
            "Their values": _range(row, variables),
            "Recorded in": "" if pd.isna(row["known"]) else f"{row['known']:.0f}",
        }
        for row in _rows(values)
    ]
    shown = pd.DataFrame(rows)
    if values["known"].isna().all():
        shown = shown.drop(columns="Recorded in")
    low, high = zip(*((each or (None, None)) for each in values["percentiles"]), strict=True)
    table = values[["predictor", "value", "typical", "lowest", "highest", "same", "known"]]
    of = f" of the {patients} training patients" if patients else " of the training patients"
    return Exhibit(
        "training-patients",
        "Beside the training patients",
        table.assign(percentile_above=low, percentile_below=high),
        caption=f"Counts and ranges{of}; the model holds no single patient's values. How many share all of these "
        "values it does not know.",
        shown=shown,
    )


def place_in_words(row: Mapping[str, Any]) -> str:
    """Where a value lies: a row of `training_exhibit`'s values."""
    value, percentiles = row["value"], row["percentiles"]
    lowest, highest = row["lowest"], row["highest"]
    same, known = row["same"], row["known"]
    if pd.isna(value):
        return "missing: imputed as in training"
    if not pd.isna(same):
        return f"{same:.0f} of {known:.0f} have the same"
    if not isinstance(value, float) or pd.isna(lowest):
        return "not known"
    if value < lowest or value > highest:
        return f"{'lower' if value < lowest else 'higher'} than all; counts as the nearest"
    match percentiles:
        case None:
            return "within their range"
        case (0, high):
            return f"below the {high}th percentile" if high < 100 else "as all of them"
        case (low, 100):
            return f"above the {low}th percentile"
        case (low, high):
            return f"between the {low}th and the {high}th percentile"
    return "within their range"


def _range(row: Mapping[str, Any], variables: Mapping[str, Variable]) -> str:
    typical = format_value(row["predictor"], row["typical"], variables)
    if pd.isna(row["lowest"]):
        return f"mostly {typical}"
    _, low, high = _numbers(row, variables)
    return f"median {typical}, {low} to {high}"


def _numbers(row: Mapping[str, Any], variables: Mapping[str, Variable]) -> tuple[str, ...]:
    """The patient's value and the range of the others, told apart if they are numbers."""
    name, numbers = row["predictor"], (row["value"], row["lowest"], row["highest"])
    if any(pd.isna(number) or isinstance(number, str) for number in numbers):
        return tuple(format_value(name, number, variables) for number in numbers)
    return format_numbers(name, *numbers)


def _rows(values: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): cell for name, cell in row.items()} for row in values.to_dict("records")]


def format_signed(value: float) -> str:
    """A score or a part of it: "+0.031", "−0.120", "0.000" for hardly anything."""
    if np.isnan(value):
        return "n.e."
    text = f"{value:+.3f}".replace("-", "−")
    return text[1:] if float(text[1:]) == 0 else text
