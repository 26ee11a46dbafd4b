"""A cohort in pictures: the flow chart from all its patients to hold-out and folds (Fig. 1), and missing values."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter

from rlvo.cohort.labels import variable_name
from rlvo.cohort.selection import FlowStep
from rlvo.report.style import BLUE, GREY, INK, PAGE_WIDTH, PALE, paper_style

LINE, PADDING, MARGIN = 0.15, 0.09, 0.08
"""Height of a line of text, padding in a box, margin of the picture; all in inches."""
DOWN, BESIDE = 0.26, 0.12
"""Space between two boxes with an arrow between them, and without."""
LEFT, RIGHT = 2.9, 3.3
"""Widths of the boxes along the flow and beside it."""
CHARACTERS = 13
"""Bold characters that fit into an inch."""
FOLDS_PER_ROW = 5


@dataclass(frozen=True)
class Part:
    """A group of patients and how many of them have rLVO."""

    name: str
    patients: int
    rlvo: int

    @property
    def words(self) -> str:
        share = f" ({self.rlvo / self.patients:.1%})".replace("%", " %") if self.patients else ""
        return f"n = {self.patients:,}\n{self.rlvo:,} rLVO{share}"


@dataclass(frozen=True)
class _Box:
    """A box to draw under its title; `x` (centre) and `top` are in inches from the picture's upper left corner."""

    title: str
    words: str
    x: float
    top: float
    width: float
    fill: str = "white"

    @property
    def titles(self) -> list[str]:
        return textwrap.wrap(self.title, int(CHARACTERS * self.width))

    @property
    def lines(self) -> list[str]:
        return [*self.titles, *self.words.splitlines()]

    @property
    def bottom(self) -> float:
        return self.top - LINE * len(self.lines) - 2 * PADDING

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


@paper_style
def flow_chart(
    considered: int, steps: Sequence[FlowStep], development: Part, holdout: Part, folds: Sequence[Part]
) -> Figure:
    """Draw boxes and arrows from the table's rows down to hold-out and folds.

    Args:
        considered: patients in the table.
        steps: the exclusions, in order.
    """
    spine, beside = MARGIN + LEFT / 2, PAGE_WIDTH - MARGIN - RIGHT / 2
    start = _Box("Patients in the cohort table", f"n = {considered:,}", spine, -MARGIN, LEFT)
    branches, top = [], start.bottom - BESIDE
    for step in steps:
        title = step.rule[:1].upper() + step.rule[1:]
        branches.append(_Box(title, f"n = {step.excluded:,}", beside, top, RIGHT, PALE))
        top = branches[-1].bottom - BESIDE
    everyone = Part("Included", development.patients + holdout.patients, development.rlvo + holdout.rlvo)
    included = _Box(everyone.name, everyone.words, spine, top - (DOWN - BESIDE), LEFT)
    developed = _Box(development.name, development.words, spine, included.bottom - DOWN, LEFT)
    held = _Box(holdout.name, holdout.words, beside, developed.top, RIGHT, PALE)
    cells = _fold_rows(folds, top=developed.bottom - DOWN - LINE)

    height = MARGIN - min(cell.bottom for row in cells for cell in row)
    figure = Figure(figsize=(PAGE_WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, PAGE_WIDTH), ylim=(-height, 0))
    axes.axis("off")
    for box in (start, *branches, included, developed, held, *(cell for row in cells for cell in row)):
        _draw_box(axes, box)
    _draw_arrow(axes, (spine, start.bottom), (spine, included.top))
    for branch, step in zip(branches, steps, strict=True):
        _draw_arrow(axes, (spine, branch.middle), (beside - RIGHT / 2, branch.middle))
        if branch is not branches[-1]:
            y = branch.bottom - BESIDE / 2
            axes.text(spine - 0.08, y, f"{step.remaining:,}", ha="right", va="center", color=GREY, fontsize=7)
    _draw_arrow(axes, (spine, included.bottom), (spine, developed.top))
    _draw_arrow(axes, (spine, included.bottom - DOWN / 2), (beside, included.bottom - DOWN / 2), (beside, held.top))
    bracket = developed.bottom - DOWN / 2
    axes.text(spine + 0.1, bracket - 0.04, f"{len(folds)}-fold cross-validation", va="top", color=GREY, fontsize=7)
    y = cells[0][0].top + DOWN / 2
    axes.plot([spine, spine], [developed.bottom, y], color=INK, linewidth=0.8)
    for cell in cells[0]:
        _draw_arrow(axes, (spine, y), (cell.x, y), (cell.x, cell.top))
    return figure


def _fold_rows(folds: Sequence[Part], top: float) -> list[list[_Box]]:
    columns = min(len(folds), FOLDS_PER_ROW)
    pitch = (PAGE_WIDTH - 2 * MARGIN + BESIDE) / columns
    rows: list[list[_Box]] = []
    for first in range(0, len(folds), columns):
        row = [
            _Box(fold.name, fold.words, MARGIN + (column + 0.5) * pitch - BESIDE / 2, top, pitch - BESIDE)
            for column, fold in enumerate(folds[first : first + columns])
        ]
        top = min(cell.bottom for cell in row) - BESIDE
        rows.append(row)
    return rows


def _draw_box(axes: Axes, box: _Box) -> None:
    corner = (box.x - box.width / 2, box.bottom)
    axes.add_patch(Rectangle(corner, box.width, box.top - box.bottom, facecolor=box.fill, edgecolor=INK, linewidth=0.8))
    for number, line in enumerate(box.lines):
        weight = "bold" if number < len(box.titles) else "normal"
        axes.text(box.x, box.top - PADDING - (number + 0.5) * LINE, line, ha="center", va="center", fontweight=weight)


def _draw_arrow(axes: Axes, *points: tuple[float, float]) -> None:
    """Draw a line through the points that ends in an arrow."""
    *_, before, end = points
    axes.plot(*zip(*points[:-1], strict=True), color=INK, linewidth=0.8, solid_capstyle="butt")
    arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    axes.annotate("", xy=end, xytext=before, arrowprops=arrow)


@paper_style
def missingness_plot(table: pd.DataFrame) -> Figure:
    """Draw one bar per column with missing values, most first: share and number of patients without a value.

    Raises:
        ValueError: no value is missing.
    """
    missing = table.isna().sum().sort_values(ascending=False, kind="stable")
    missing = missing[missing > 0]
    if missing.empty:
        raise ValueError("no value is missing")
    height = 0.19 * len(missing) + 0.5
    figure = Figure(figsize=(PAGE_WIDTH, height))
    axes = figure.add_axes((0.25, 0.42 / height, 0.68, 1 - 0.5 / height))
    shares = missing / len(table)
    axes.barh(range(len(missing)), shares, color=BLUE, height=0.65)
    for y, (count, share) in enumerate(zip(missing, shares, strict=True)):
        axes.text(share, y, f" {count:,}", va="center", fontsize=7)
    axes.set(ylim=(len(missing) - 0.4, -0.6), xlim=(0, max(0.05, shares.max())), xlabel="Patients without a value")
    axes.set_yticks(range(len(missing)), [variable_name(str(name)) for name in missing.index])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.tick_params(left=False)
    return figure
