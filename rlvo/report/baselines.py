"""Clinical baselines on the hold-out and as pictures: odds ratios (a forest plot), calibration, net benefit."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from rlvo.cohort.labels import term_label
from rlvo.evaluation.calibration import Calibration, decision_curve
from rlvo.evaluation.odds import MIN_EVENTS
from rlvo.evaluation.performance import measure_performance
from rlvo.report.calibration import Reliability, decision_curve_plot, reliability_plot
from rlvo.report.console import format_odds, format_p
from rlvo.report.style import BLUE, GREY, ORANGE, PAGE_WIDTH, PALE, paper_style, write_picture
from rlvo.report.tables import ModelResults
from rlvo.training.baseline import BaselineResult

ROW = 0.22
"""Height of a row, in inches."""
LARGER_STEPS = {"per mL": "per 10 mL", "per year": "per 10 years"}
"""Steps in which an effect can be seen: that of a single mL or year is hardly off 1."""
STEP = 10
NOTE_LETTERS = 110
"""In a line of a note."""
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
VARIABLE, RATIO, P = -1.04, 1.06, 1.86
"""Positions of the columns beside the plot, in plot widths."""


def baseline_performance(
    results: Mapping[str, BaselineResult], test: pd.DataFrame, label: pd.Series
) -> dict[str, ModelResults]:
    """Measure each baseline as the networks are, on validation and on the hold-out, which this opens.

    Args:
        results: from `clinical_baselines`.
        test: the hold-out's rows of the checked table.
        label: 0 or 1, by patient id.
    """
    models = {}
    for name, result in results.items():
        answers = result.score(test)
        holdout = measure_performance(label.loc[test.index], answers["score"], answers["rlvo"])
        models[name] = ModelResults(result.validation_metrics(), holdout)
    return models


def unbeaten(auc: float, baselines: Mapping[str, float]) -> list[str]:
    """Say which baselines an ensemble does not beat, in a sentence; nothing if it beats all.

    Args:
        auc: the ensemble's, on the same patients as the baselines'.
        baselines: AUC by name.
    """
    better = [f"{name} ({other:.2f})" for name, other in baselines.items() if other >= auc]
    return [f"The ensemble (AUC {auc:.2f}) does not beat {', '.join(better)}."] if better else []


def unbeaten_by_networks(networks: Sequence[float], name: str, auc: float) -> list[str]:
    """Say how many networks do not beat a baseline, by their mean AUC over the folds; nothing if all do."""
    behind = sum(each <= auc for each in networks)
    which = f"{behind} of {len(networks)} networks do not beat" if len(networks) > 1 else "The network does not beat"
    return [f"{which} {name} ({auc:.2f}) in mean AUC over the folds."] if behind else []


def in_larger_steps(odds: pd.DataFrame) -> pd.DataFrame:
    """`clinical_odds` per 10 mL and per 10 years, as they are read, instead of per mL and year; p stays what it is."""
    steps = odds["unit"].isin(list(LARGER_STEPS))
    shown = odds.copy()
    shown.loc[steps, ["odds_ratio", "low", "high"]] **= STEP
    return shown.assign(unit=odds["unit"].replace(LARGER_STEPS))


def few_events(events: float) -> str:
    """What must be said of odds ratios from so many events per variable; nothing if there are enough."""
    if events >= MIN_EVENTS:
        return ""
    return (
        f"Only {events:.1f} events per variable, fewer than {MIN_EVENTS} (Peduzzi et al. 1996; Riley et al. 2019): "
        "the odds ratios are unreliable, and none is in bold."
    )


def draw_baselines(
    folder: Path,
    odds: pd.DataFrame,
    validation: Mapping[str, pd.DataFrame],
    calibrations: Mapping[str, Calibration],
    *,
    title: str,
    note: str = "",
) -> list[Path]:
    """Write `odds_ratios`, `calibration` and `decision_curve` as SVG and PNG; return their paths.

    Args:
        odds: from `clinical_odds`.
        validation: predictions (`evaluation.predictions`) of each baseline to draw.
        calibrations: of the same baselines.
        title, note: of the forest plot.
    """
    about = "Validation folds of the development patients"
    curves = {
        name: Reliability(own["label"].to_numpy(), own["probability"].to_numpy(), calibrations[name])
        for name, own in validation.items()
    }
    benefits = {name: decision_curve(own["label"], own["probability"]) for name, own in validation.items()}
    drawn = {
        "odds_ratios": forest_plot(odds, title=title, note=note),
        "calibration": reliability_plot(curves, about=about),
        "decision_curve": decision_curve_plot(benefits, about=about),
    }
    return [path for name, figure in drawn.items() for path in write_picture(figure, folder / name)]


@paper_style
def forest_plot(odds: pd.DataFrame, *, title: str, note: str = "") -> Figure:
    """Draw odds ratios (Image A1) on a log axis, one row per term; arrows mark what lies beyond.

    What has p < 0.05 is in bold, unless there is a `note` (`few_events`), which stands below the title.

    Args:
        odds: `term`, `unit` (what the odds ratio compares), `odds_ratio`, `low`, `high`, `p`; NaN if a term is not
            estimable, for the reason in `note`.
    """
    rows = len(odds)
    notes = textwrap.wrap(note, NOTE_LETTERS)
    height = ROW * rows + 0.95 + 0.14 * len(notes)
    figure = Figure(figsize=(PAGE_WIDTH, height))
    axes = figure.add_axes((0.36, 0.45 / height, 0.34, ROW * rows / height))
    low_end, high_end = _axis_ends(odds)
    axes.set(xscale="log", xlim=(low_end, high_end), ylim=(rows - 0.5, -0.5), xlabel="Odds ratio of rLVO, log scale")
    axes.plot([1, 1], [-0.5, rows - 0.5], color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
    write = partial(axes.text, transform=axes.get_yaxis_transform(), va="center")
    for x, heading, side in ((VARIABLE, "Variable", "left"), (RATIO, "OR (95 % CI)", "left"), (P, "p", "right")):
        write(x, -0.95, heading, fontweight="bold", ha=side)
    for y, row in enumerate(odds.to_dict("records")):
        if y % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, xmin=-1.06, xmax=1.88, color=PALE, clip_on=False, zorder=0, linewidth=0)
        write(VARIABLE, y, term_label(row["term"], row["unit"]))
        interval = (row["odds_ratio"], row["low"], row["high"])
        if np.isfinite(interval).all():
            _draw_interval(axes, y, *interval)
            weight = "bold" if row["p"] < 0.05 and not note else "normal"
            write(RATIO, y, format_odds(*interval), fontweight=weight)
            write(P, y, format_p(row["p"]), fontweight=weight, ha="right")
        else:
            write(RATIO, y, f"not estimable: {row['note']}", color=GREY, style="italic", fontsize=6.5)
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False, labelleft=False)
    seen = [tick for tick in TICKS if low_end <= tick <= high_end]
    axes.xaxis.set_major_locator(FixedLocator([t for t in seen if len(seen) <= 7 or math.log10(t).is_integer()]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    figure.text(0.01, 1 - 0.13 / height, title, fontsize=9, fontweight="bold", va="center")
    figure.text(0.01, 1 - 0.25 / height, "\n".join(notes), fontsize=7.5, color=ORANGE, va="top")
    return figure


def _draw_interval(axes: Axes, y: float, ratio: float, low: float, high: float) -> None:
    """Draw a square on a line that ends in an arrow if it leaves the axis."""
    low_end, high_end = axes.get_xlim()
    axes.plot([max(low, low_end), min(high, high_end)], [y, y], color=BLUE, linewidth=1.2, solid_capstyle="butt")
    if low < low_end:
        axes.plot(low_end, y, marker="<", color=BLUE, markersize=4, clip_on=False)
    if high > high_end:
        axes.plot(high_end, y, marker=">", color=BLUE, markersize=4, clip_on=False)
    axes.plot(ratio, y, marker="s", color=BLUE, markersize=4)


def _axis_ends(odds: pd.DataFrame) -> tuple[float, float]:
    """The ticks that enclose all odds ratios and intervals, at least 0.5–2 and at most 0.01–100."""
    values = odds[["odds_ratio", "low", "high"]].to_numpy(float)
    values = values[np.isfinite(values)]
    low = max((tick for tick in TICKS if tick <= min([0.5, *values])), default=TICKS[0])
    high = min((tick for tick in TICKS if tick >= max([2.0, *values])), default=TICKS[-1])
    return low, high
