"""The ratios of a JSON file of benchmarks as a picture: one dot per row, a panel per table, on a logarithmic axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from rlvo.report.style import BLUE, GREY, PAGE_WIDTH, PALE_INK, paper_style, write_picture

ROW, TITLE = 0.17, 0.42
"""Heights in inches: of a row, and of a panel's title with the room around it."""


@paper_style
def draw_ratios(held: dict[str, Any], path: Path) -> None:
    """Draw every table of `held` (the content of the JSON file) that has a ratio, to `path` with other suffixes."""
    panels = [
        (table["title"], ratios)
        for each in held.values()
        for table in each["tables"]
        if table["ratio"] and (ratios := _ratios(table))
    ]
    if not panels:
        return
    heights = [TITLE + ROW * len(ratios) for _, ratios in panels]
    figure = Figure(figsize=(PAGE_WIDTH, sum(heights) + 0.3), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (title, ratios) in zip(axes, panels, strict=True):
        places = range(len(ratios))
        panel.hlines(places, 1, list(ratios.values()), color=PALE_INK, linewidth=1)
        panel.plot(list(ratios.values()), places, "o", color=BLUE, markersize=4)
        for place, ratio in zip(places, ratios.values(), strict=True):
            side = 1 if ratio >= 1 else -1
            panel.annotate(
                f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}",
                (ratio, place),
                xytext=(5 * side, 0),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center",
                fontsize=7,
            )
        panel.axvline(1, color=GREY, linewidth=0.7)
        panel.set(xscale="log", ylim=(len(ratios) - 0.5, -0.5), yticks=places, yticklabels=list(ratios))
        panel.set_title(title, loc="left", fontsize=8)
        panel.tick_params(axis="y", length=0)
        panel.spines["left"].set_visible(False)
    low, high = axes[-1].get_xlim()
    axes[-1].set_xlim(min(low, 0.8) * 0.8, high * 1.3)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if low <= tick <= high or tick == 1]
    axes[-1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[-1].xaxis.set_minor_formatter(NullFormatter())
    axes[-1].set_xlabel("times as good as the other way")
    write_picture(figure, path)


def _ratios(table: dict[str, Any]) -> dict[str, float]:
    column = table["columns"].index(table["ratio"])
    return {name: row[column] for name, row in table["rows"].items() if row[column]}
