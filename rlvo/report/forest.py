"""The forest plot of a logistic fit (Image A1): odds ratios with their intervals, and the figures beside them."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from rlvo.report.labels import term_label
from rlvo.report.style import BLUE, GREY, PAGE_WIDTH, PALE, paper_style

ROW = 0.22
"""Height of a row, in inches."""
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
VARIABLE, RATIO, P = -1.04, 1.06, 1.86
"""Where the columns stand beside the plot, in its widths."""


@paper_style
def forest_plot(odds: pd.DataFrame, *, title: str) -> Figure:
    """A row a term on a log axis; intervals that leave it end in arrows. Rows with p < 0.05 are bold.

    Args:
        odds: `term`, `unit` (what the odds ratio compares), `odds_ratio`, `low`, `high`, `p`; NaN where a term is not
            estimable, for the reason `note`.
    """
    rows = len(odds)
    height = ROW * rows + 0.95
    figure = Figure(figsize=(PAGE_WIDTH, height))
    axes = figure.add_axes((0.36, 0.45 / height, 0.34, ROW * rows / height))
    low_end, high_end = _ends(odds)
    axes.set(xscale="log", xlim=(low_end, high_end), ylim=(rows - 0.5, -0.5), xlabel="Odds ratio of rLVO, log scale")
    axes.plot([1, 1], [-0.5, rows - 0.5], color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
    write = partial(axes.text, transform=axes.get_yaxis_transform(), va="center")
    for x, heading, side in ((VARIABLE, "Variable", "left"), (RATIO, "OR (95 % CI)", "left"), (P, "p", "right")):
        write(x, -0.95, heading, fontweight="bold", ha=side)
    for y, row in enumerate(odds.to_dict("records")):
        if y % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, xmin=-1.06, xmax=1.88, color=PALE, clip_on=False, zorder=0, linewidth=0)
        write(VARIABLE, y, term_label(row["term"], row["unit"]))
        figures = (row["odds_ratio"], row["low"], row["high"])
        if np.isfinite(figures).all():
            _interval(axes, y, *figures)
            weight = "bold" if row["p"] < 0.05 else "normal"
            write(RATIO, y, odds_words(*figures), fontweight=weight)
            write(P, y, p_words(row["p"]), fontweight=weight, ha="right")
        else:
            write(RATIO, y, f"not estimable: {row['note']}", color=GREY, style="italic", fontsize=6.5)
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False, labelleft=False)
    seen = [tick for tick in TICKS if low_end <= tick <= high_end]
    axes.xaxis.set_major_locator(FixedLocator([t for t in seen if len(seen) <= 7 or math.log10(t).is_integer()]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    figure.text(0.01, 1 - 0.13 / height, title, fontsize=9, fontweight="bold", va="center")
    return figure


def _interval(axes: Axes, y: float, ratio: float, low: float, high: float) -> None:
    """A square on a line, which ends in an arrow where it leaves the axis."""
    low_end, high_end = axes.get_xlim()
    axes.plot([max(low, low_end), min(high, high_end)], [y, y], color=BLUE, linewidth=1.2, solid_capstyle="butt")
    if low < low_end:
        axes.plot(low_end, y, marker="<", color=BLUE, markersize=4, clip_on=False)
    if high > high_end:
        axes.plot(high_end, y, marker=">", color=BLUE, markersize=4, clip_on=False)
    axes.plot(ratio, y, marker="s", color=BLUE, markersize=4)


def odds_words(ratio: float, low: float, high: float) -> str:
    """An odds ratio and its interval; three decimals where the interval is so narrow that two would hide it."""
    digits = 3 if high - low < 0.1 else 2
    between = "–" if low >= 0.01 and high <= 100 else " to "
    return f"{_ratio(ratio, digits)} ({_ratio(low, digits)}{between}{_ratio(high, digits)})"


def _ratio(value: float, digits: int) -> str:
    if value > 100:
        return "> 100"
    return "< 0.01" if value < 0.01 else f"{value:.{digits}f}"


def p_words(p: float) -> str:
    """A p-value as papers print it."""
    if math.isnan(p):
        return "n.e."
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _ends(odds: pd.DataFrame) -> tuple[float, float]:
    """Ticks round all odds ratios and intervals, at least 0.5–2 and at most 0.01–100."""
    figures = odds[["odds_ratio", "low", "high"]].to_numpy(float)
    figures = figures[np.isfinite(figures)]
    low = max((tick for tick in TICKS if tick <= min([0.5, *figures])), default=TICKS[0])
    high = min((tick for tick in TICKS if tick >= max([2.0, *figures])), default=TICKS[-1])
    return low, high
