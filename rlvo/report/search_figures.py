"""A report's pictures of a search: its history, the importance of hyperparameters, and parallel coordinates."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rlvo.report.exhibit import Exhibit
from rlvo.report.style import BLUE, COLOURS, GREY, INK, ORANGE, PAGE_WIDTH, paper_style

OBJECTIVE = "Mean validation AUC over folds"
COUNTED = ("number", "state", "objective")
"""Columns of the proposals that are no hyperparameter."""
MOST_AXES = 8
"""Parallel coordinates show so many hyperparameters at most, the most important ones."""
CHOSEN_ON = "The objective is the mean validation AUC, by which configurations were chosen: optimistic."


def history_exhibit(proposals: pd.DataFrame) -> Exhibit:
    """The objective of every configuration in the order of the proposals, and the best so far.

    Args:
        proposals: from `rlvo.search.history`.
    """
    best = proposals["objective"].cummax().ffill()
    table = proposals.assign(best_so_far=best)
    ended = proposals["state"].value_counts()
    caption = f"{', '.join(f'{count} {state}' for state, count in ended.items())}. {CHOSEN_ON}"
    return Exhibit("search-history", "History of the search", table, caption, "optimistic", figure=_draw_history(table))


def importance_exhibit(importance: pd.DataFrame) -> Exhibit:
    """How much each hyperparameter mattered, by Optuna's evaluators."""
    caption = (
        "Share of importance among hyperparameters that every finished configuration has, by Optuna's evaluators. If "
        f"they disagree, the search tells little. {CHOSEN_ON}"
    )
    return Exhibit(
        "hyperparameter-importance", "Importance of hyperparameters", importance, caption, "optimistic",
        figure=_draw_importance(importance),
    )  # fmt: skip


def parallel_exhibit(proposals: pd.DataFrame, importance: pd.DataFrame) -> Exhibit | None:
    """Every finished configuration as a line over the hyperparameters that vary; None if there are fewer than two."""
    finished = proposals[proposals["objective"].notna()]
    varied = [name for name in map(str, proposals.columns) if name not in COUNTED and finished[name].nunique() > 1]
    if len(finished) < 2 or not varied:
        return None
    order = {name: number for number, name in enumerate(importance["parameter"])} if len(importance) else {}
    axes = sorted(varied, key=lambda name: order.get(name, len(order)))[:MOST_AXES]
    table = finished[["number", *axes, "objective"]]
    more = f" The {MOST_AXES} most important of {len(varied)} hyperparameters." if len(varied) > MOST_AXES else ""
    return Exhibit(
        "parallel-coordinates", "Configurations in parallel coordinates", table, f"{CHOSEN_ON}{more}", "optimistic",
        figure=_draw_parallel(table),
    )  # fmt: skip


@paper_style
def _draw_history(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(PAGE_WIDTH, 2.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(table["number"], table["objective"], "o", color=BLUE, markersize=3.5, label="finished")
    axes.step(table["number"], table["best_so_far"], where="post", color=INK, linewidth=1.2, label="best so far")
    for state, colour in (("pruned", GREY), ("failed", ORANGE)):
        own = table.loc[table["state"] == state, "number"]
        if len(own):
            axes.plot(
                own, np.full(len(own), 0.02), "|", color=colour, transform=axes.get_xaxis_transform(), label=state
            )
    axes.set(xlabel="Configuration, in the order of the proposals", ylabel=OBJECTIVE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=4)
    return figure


@paper_style
def _draw_importance(importance: pd.DataFrame) -> Figure:
    evaluators = [name for name in map(str, importance.columns) if name != "parameter"]
    height = 0.8 / len(evaluators)
    figure = Figure(figsize=(PAGE_WIDTH, 0.42 * len(importance) + 0.9), layout="constrained")
    axes = figure.subplots()
    for number, (name, colour) in enumerate(zip(evaluators, COLOURS, strict=False)):
        y = np.arange(len(importance)) + (number - (len(evaluators) - 1) / 2) * height
        axes.barh(y, importance[name], height=height, color=colour, label=name)
    axes.set(
        xlim=(0, 1), ylim=(len(importance) - 0.5, -0.5), xlabel="Share of importance", yticks=range(len(importance))
    )
    axes.set_yticklabels(importance["parameter"])
    axes.tick_params(left=False)
    figure.legend(loc="outside lower center", ncols=len(evaluators))
    return figure


@paper_style
def _draw_parallel(table: pd.DataFrame) -> Figure:
    names = [name for name in map(str, table.columns) if name != "number"]
    scaled = [_scaled(table[name], is_last=name == "objective") for name in names]
    heights = np.array([values for values, _ in scaled])
    objective = table["objective"].to_numpy(float)
    norm = Normalize(objective.min(), objective.max())
    colours = ScalarMappable(norm, "viridis_r")
    figure = Figure(figsize=(PAGE_WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    for line in np.argsort(objective):  # the best on top
        axes.plot(range(len(names)), heights[:, line], color=colours.to_rgba(objective[line]), linewidth=1, alpha=0.8)
    for x, (_, ticks) in enumerate(scaled):
        axes.axvline(x, color=INK, linewidth=0.7)
        for y, words in ticks:
            axes.annotate(
                words, (x, y), (3, 0), textcoords="offset points", fontsize=6, va="center",
                bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6},
            )  # fmt: skip
    shown = [name.rpartition(".")[2].replace("_", " ") if name != "objective" else "validation AUC" for name in names]
    axes.set(xlim=(-0.05, len(names) - 0.75), ylim=(-0.06, 1.06), xticks=range(len(names)), yticks=[])
    axes.set_xticklabels([name if len(names) < 7 else name.replace(" ", "\n") for name in shown])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _scaled(values: pd.Series, *, is_last: bool) -> tuple[np.ndarray, Sequence[tuple[float, str]]]:
    """Heights 0–1 on an axis, and its ticks: levels of text and of few numbers, the range of others (log if wide)."""
    present = values.dropna()
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)
    if not is_last and (not is_number or present.nunique() <= 4):
        levels = sorted(present.unique(), key=lambda value: (str(type(value)), value))
        place = {level: (number + 0.5) / len(levels) for number, level in enumerate(levels)}
        return values.map(place).to_numpy(float), [(y, str(level)) for level, y in place.items()]
    numbers = values.to_numpy(float)
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    is_log = low > 0 and high / low > 30
    as_drawn = np.log(numbers) if is_log else numbers
    start, span = np.nanmin(as_drawn), max(np.nanmax(as_drawn) - np.nanmin(as_drawn), 1e-12)
    marks = [low, float(np.exp((np.log(low) + np.log(high)) / 2)) if is_log else (low + high) / 2, high]
    ticks = [((np.log(mark) if is_log else mark) - start) / span for mark in marks]
    return (as_drawn - start) / span, [(float(y), f"{mark:.3g}") for y, mark in zip(ticks, marks, strict=True)]
