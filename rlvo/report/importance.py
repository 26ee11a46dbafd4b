"""Importance of the predictors: the radar figure (González et al. 2025, Fig. 4) and its table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator

from rlvo.report.labels import NAMES
from rlvo.report.style import BLUE, GREEN, GREY, INK, ORANGE, PAGE_WIDTH, PALE_INK, paper_style

COLUMNS = {
    "absolute_contribution": "Absolute contribution, %",
    "auc_drop": "AUC lost if shuffled",
    "auc_drop_sd": "SD",
    "shapley": "Mean |Shapley value|, logits",
    "rank_contribution": "Rank by contribution",
    "rank_permutation": "Rank by permutation",
    "rank_shapley": "Rank by Shapley value",
    "mean_rank": "Mean rank",
}


def importance_rows(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `explain.ranking.rank_predictors` with readable names of predictors and columns, ready to be shown."""
    percent = table.assign(absolute_contribution=100 * table["absolute_contribution"])
    names = [NAMES.get(name, name) for name in table.index]
    return percent[list(COLUMNS)].rename(columns=COLUMNS).set_axis(names).rename_axis("Predictor")


@paper_style
def radar_plot(scale: pd.Series, shift: pd.Series, individual: pd.DataFrame, absolute: pd.Series) -> Figure:
    """Draw the predictors' contributions: individual ones and their two parts on the left, absolute on the right.

    Args:
        scale, shift: the parts that act through DAFT's scale and shift, by predictor.
        individual: contributions by patient [N, P].
        absolute: over all patients, by predictor.
    """
    predictors = list(absolute.index)
    quartiles = individual[predictors].quantile([0.25, 0.75])
    figure = Figure(figsize=(PAGE_WIDTH, 3.1), layout="constrained")
    axes = figure.subplots(1, 2, subplot_kw={"projection": "polar"})
    parts = {"through the scale": scale, "through the shift": shift}
    _draw(axes[0], predictors, parts, (ORANGE, GREEN), "Individual, by pathway")
    _draw(axes[1], predictors, {"all patients": absolute}, (BLUE,), "Absolute")
    around = _angles(len(predictors))
    low, high = (100 * _closed(row) for row in quartiles.to_numpy())
    axes[1].fill_between(around, low, high, color=BLUE, alpha=0.18, linewidth=0, label="middle half of the patients")
    for each in axes:
        each.set_ylim(0, None)
        each.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


def _draw(
    axes: PolarAxes, predictors: list[str], lines: Mapping[str, pd.Series], colours: tuple[str, ...], title: str
) -> None:
    around = _angles(len(predictors))
    for (name, values), colour in zip(lines.items(), colours, strict=True):
        percent = 100 * _closed(values[predictors].to_numpy(float))
        axes.plot(around, percent, color=colour, linewidth=1.4, marker="o", markersize=2.5, label=name)
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    axes.set_xticks(around[:-1], [NAMES.get(name, name) for name in predictors])
    axes.tick_params(axis="x", pad=-2, labelsize=6)
    for label, angle in zip(axes.get_xticklabels(), around, strict=False):
        side = np.sin(angle)
        label.set_verticalalignment("bottom" if np.cos(angle) > 0.97 else "top" if np.cos(angle) < -0.97 else "center")
        label.set_horizontalalignment("center" if abs(side) < 0.02 else "left" if side > 0 else "right")
    axes.tick_params(axis="y", labelsize=6, labelcolor=GREY)
    axes.set_rlabel_position(90 / len(predictors))
    axes.yaxis.set_major_formatter("{x:.3g} %")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(color=PALE_INK, linewidth=0.5)
    axes.spines["polar"].set(color=PALE_INK, linewidth=0.7)
    axes.set_title(title, color=INK, pad=14)


def _angles(predictors: int) -> np.ndarray:
    return np.linspace(0, 2 * np.pi, predictors + 1)


def _closed(values: np.ndarray) -> np.ndarray:
    """The values, and the first again."""
    return np.append(values, values[:1])
