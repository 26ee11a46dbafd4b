"""Calibration and usefulness of probabilities: reliability curves with histograms, and decision curves."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rlvo.evaluation.calibration import Calibration, measure_calibration, reliability_curve
from rlvo.report.exhibit import Exhibit, Standing
from rlvo.report.style import BLUE, COLOURS, GREY, INK, ORANGE, PALE_INK, paper_style, say_about, write_picture

BINS = 20
"""In the histogram under a reliability curve."""
ROUNDING = 1e-12
"""Net benefits that differ by less are equal."""


@dataclass(frozen=True)
class Reliability:
    """One model's probabilities [N] on patients with labels [N] (0 or 1), and their calibration."""

    label: np.ndarray
    probability: np.ndarray
    calibration: Calibration


@paper_style
def reliability_plot(models: Mapping[str, Reliability], *, about: str = "") -> Figure:
    """Draw one panel per model: observed against predicted rLVO with intervals, above a histogram of predictions.

    The axes end soon after the points, so that those of a rare outcome are not crowded in a corner.
    `about` says whose probabilities they are.
    """
    side, counts, left, below, between = 2.7, 0.75, 0.55, 0.58, 0.15
    width = len(models) * (side + left) + between
    height = below + counts + between + side + 0.85 + (0.2 if about else 0)
    figure = Figure(figsize=(width, height))
    for number, (name, model) in enumerate(models.items()):
        x = (number * (side + left) + left) / width
        histogram = figure.add_axes((x, below / height, side / width, counts / height))
        curves = figure.add_axes((x, (below + counts + between) / height, side / width, side / height))
        curve = reliability_curve(model.label, model.probability)
        curves.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
        away = np.abs(curve[["low", "high"]].to_numpy().T - curve["observed"].to_numpy())
        curves.errorbar(
            curve["predicted"], curve["observed"], away, color=BLUE, marker="o", markersize=3.5, linewidth=1.2,
            elinewidth=0.8, capsize=2, zorder=3,
        )  # fmt: skip
        end = min(1.0, math.ceil(10 * curve[["predicted", "observed"]].to_numpy().max() + 0.5) / 10)
        curves.set(xlim=(0, end), ylim=(0, end))
        curves.set_title(name, pad=42)
        curves.tick_params(labelbottom=False)
        lines = "\n".join(format_calibration(model.calibration))
        curves.text(0, 1.02, lines, va="bottom", fontsize=7, transform=curves.transAxes)
        within = np.minimum(model.probability, end)
        parts = [within[model.label == 0], within[model.label == 1]]
        beyond = f"\n(last bar: {end * (1 - 1 / BINS):.2g} and above)" if (model.probability > end).any() else ""
        looks: dict[str, Any] = {"color": [PALE_INK, ORANGE], "label": ["no rLVO", "rLVO"], "rwidth": 0.9}
        histogram.hist(parts, bins=BINS, range=(0, end), stacked=True, **looks)
        histogram.set(xlabel=f"Predicted probability of rLVO{beyond}", xlim=(0, end))
        if number == 0:
            curves.set_ylabel("Observed share of rLVO")
            histogram.set_ylabel("Patients")
            histogram.legend(loc="upper right", handlelength=1)
    if about:
        say_about(figure, about)
    return figure


def format_calibration(found: Calibration) -> tuple[str, ...]:
    """Brier score, intercept and slope with their intervals, and calibration error with its range by chance alone."""
    low, high = found.ece_if_calibrated
    estimates: dict[Any, Any] = found.estimates.to_dict("index")
    return (
        *(f"{name.capitalize()} {_interval(**row)}" for name, row in estimates.items()),
        f"ECE {found.ece:.3f} (if calibrated {low:.3f}–{high:.3f})",
    )


def format_benefit(curve: pd.DataFrame) -> str:
    """At how many thresholds of a `decision_curve` alerting by the model has more net benefit than on all or none."""
    gain = curve["model"] - curve[["treat_all", "treat_none"]].max(axis=1)
    better = int((gain > ROUNDING).sum())
    low, high = curve["threshold"].iloc[[0, -1]]
    return f"more net benefit than alerting on all or none at {better} of {len(curve)} thresholds, {low:.2f}–{high:.2f}"


def draw_reliability(
    path: Path, label: np.ndarray, probability: np.ndarray, *, name: str, found: Calibration | None = None
) -> list[Path]:
    """Draw one model's reliability curve as SVG and PNG; return their paths.

    Args:
        label: 0 or 1 [N].
        probability: [N].
        found: the calibration of these probabilities, if it is known already.
    """
    shown = Reliability(label, probability, found or measure_calibration(label, probability))
    return [*write_picture(reliability_plot({name: shown}), path)]


def _interval(value: float, low: float, high: float) -> str:
    return "not estimable" if math.isnan(value) else f"{value:z.2f} ({low:z.2f} to {high:z.2f})".replace("-", "−")


@paper_style
def decision_curve_plot(models: Mapping[str, pd.DataFrame], *, about: str = "") -> Figure:
    """Draw the net benefit of alerting by each model, on all and on none, over the threshold probability.

    Args:
        models: for each, its `decision_curve`.
        about: whose probabilities they are.
    """
    figure = Figure(figsize=(3.6, 2.9), layout="constrained")
    axes = figure.subplots()
    first = next(iter(models.values()))
    axes.plot(first["threshold"], first["treat_all"], color=GREY, linewidth=1, linestyle=(0, (4, 2)), label="alert all")
    axes.plot(first["threshold"], first["treat_none"], color=INK, linewidth=0.8, linestyle=":", label="alert none")
    for (name, curve), colour, edge in zip(models.items(), COLOURS, itertools.cycle(("-", (0, (4, 2)))), strict=False):
        axes.plot(curve["threshold"], curve["model"], color=colour, linewidth=1.8, label=name)
        # Two bands that only tint what is behind them blend to grey: their edges tell them apart.
        band = {"facecolor": (colour, 0.07), "edgecolor": (colour, 0.8), "linewidth": 0.6, "linestyle": edge}
        axes.fill_between(curve["threshold"], curve["low"], curve["high"], **band)  # type: ignore[arg-type]
    best = max(curve[["high", "treat_all"]].to_numpy().max() for curve in models.values())
    axes.set(
        xlabel="Threshold probability",
        ylabel="Net benefit",
        xlim=(0, float(first["threshold"].max())),
        ylim=(-0.25 * best, 1.05 * best),
    )
    axes.legend(loc="upper right")
    if about:
        say_about(figure, about)
    return figure


def calibration_exhibits(
    models: Mapping[str, Reliability], benefits: Mapping[str, pd.DataFrame], *, standing: Standing, about: str
) -> list[Exhibit]:
    """Reliability curves, the figures of calibration, and decision curves, by model.

    Args:
        benefits: of the same models, from `decision_curve`.
        standing: of the answers.
        about: whose they are, in a sentence.
    """
    bins, figures, shown = [], [], []
    for name, model in models.items():
        bins.append(reliability_curve(model.label, model.probability).assign(model=name))
        found = model.calibration
        estimates: dict[Any, Any] = found.estimates.to_dict("index")
        figures += [{"model": name, "estimate": estimate, **row} for estimate, row in estimates.items()]
        low, high = found.ece_if_calibrated
        figures.append(
            {"model": name, "estimate": "ece", "value": found.ece, "if_calibrated_low": low}
            | {"if_calibrated_high": high}
        )
        shown.append(
            (name, *(_interval(**row) for row in estimates.values()), f"{found.ece:.3f} ({low:.3f}–{high:.3f})")
        )
    renamed = {name: curve.rename(columns={"model": "net_benefit"}) for name, curve in benefits.items()}
    curves = pd.concat(renamed, names=["model"]).reset_index("model").reset_index(drop=True)
    headings = ["", "Brier score", "intercept (0 is ideal)", "slope (1 is ideal)", "ECE (range if calibrated)"]
    of_curves = f"{about} Bins of equally many patients; 95 % intervals: Wilson."
    of_figures = f"{about} 95 % intervals: Brier score by bootstrap, intercept and slope by Wald."
    of_benefit = f"{about} Bands: 95 % intervals (bootstrap). " + "; ".join(
        f"{name}: {format_benefit(curve)}" for name, curve in benefits.items()
    )
    drawn, table = reliability_plot(models), pd.DataFrame(shown, columns=headings)
    benefit = decision_curve_plot(benefits)
    return [
        Exhibit("calibration", "Calibration", pd.concat(bins, ignore_index=True), of_curves, standing, figure=drawn),
        Exhibit("calibration-figures", "Calibration in figures", pd.DataFrame(figures), of_figures, standing, table),
        Exhibit("decision-curve", "Decision curve", curves, of_benefit, standing, figure=benefit, is_narrow=True),
    ]
