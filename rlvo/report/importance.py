"""Importance of the predictors: the radar figure (González et al. 2025, Fig. 4) and its table."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator

from rlvo.cohort.labels import variable_name
from rlvo.explain.ranking import MEASURES, VariableImportance
from rlvo.report.exhibit import Exhibit
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
DECIMALS = {"absolute_contribution": 1, "auc_drop": 4, "auc_drop_sd": 4, "shapley": 4}
"""Of the page's figures; ranks have one."""
QUARTILES = {0.25: "individual_lower_quartile", 0.75: "individual_upper_quartile"}


def importance_exhibits(found: VariableImportance, predictors: Sequence[str]) -> list[Exhibit]:
    """The radar figure (unless nothing acts through a scale or a shift), the table, and how far the measures agree.

    Args:
        predictors: in the order in which the radar shows them.
    """
    exhibits, absolute = [], found.table["absolute_contribution"].reindex(list(predictors))
    if absolute.notna().all():
        parts = {"through_scale": found.scale, "through_shift": found.shift, "absolute_contribution": absolute}
        quartiles = {name: found.individual.quantile(share) for share, name in QUARTILES.items()}
        exhibits.append(
            Exhibit(
                "radar",
                "Contribution of each predictor (Fig. 4)",
                pd.DataFrame(parts | quartiles).loc[absolute.index].rename_axis("predictor").reset_index(),
                "Shares of how much DAFT's or FiLM's scale and shift move with each predictor, from their derivatives.",
                "optimistic",
                figure=radar_plot(found.scale, found.shift, found.individual, absolute),
            )
        )
    rows = importance_rows(found.table)
    decimals = {COLUMNS[name]: DECIMALS.get(name, 1) for name in COLUMNS}
    shown = rows.apply(lambda column: [_number(value, decimals[str(column.name)]) for value in column])
    exhibits.append(
        Exhibit(
            "variable-importance",
            "Importance of the predictors by three measures",
            found.table.reset_index(),
            "Contribution: to each network's scale and shift. AUC lost: that of each fold's combined score if the "
            "predictor is shuffled among its validation patients; mean and SD over folds and shuffles. Shapley values: "
            f"of each member, for patients drawn at random. {len(found.members)} members read the table and have a "
            "say. Rank 1 is the most important.",
            "optimistic",
            shown.reset_index(),
        )
    )
    names = {name: COLUMNS[name].split(",")[0] for name in MEASURES}
    agreed = found.agreement.rename(index=names, columns=names).rename_axis("measure").reset_index()
    exhibits.append(
        Exhibit(
            "importance-agreement",
            "Do the measures agree?",
            agreed,
            "Spearman's rank correlation between the measures, over predictors.",
            "optimistic",
            agreed.map(lambda cell: cell if isinstance(cell, str) else _number(cell, 2)),
        )
    )
    return exhibits


def _number(value: float, decimals: int) -> str:
    return "–" if pd.isna(value) else f"{value:.{decimals}f}".replace("-", "−")


def importance_rows(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `explain.ranking.rank_predictors` with readable names of predictors and columns, ready to be shown."""
    percent = table.assign(absolute_contribution=100 * table["absolute_contribution"])
    names = [variable_name(str(name)) for name in table.index]
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
    figure = Figure(figsize=(PAGE_WIDTH, 3.1), layout=ConstrainedLayoutEngine(wspace=0.08))
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
    axes.set_xticks(around[:-1], [variable_name(name) for name in predictors])
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
