"""A report's pictures of decisions: confusion matrices, and how far the folds agree in their votes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rlvo.report.exhibit import Exhibit, Standing
from rlvo.report.model_tables import ScoredModel
from rlvo.report.style import BLUE, INK, ORANGE, PAGE_WIDTH, PALE_INK, paper_style

PER_ROW = 5
"""Confusion matrices side by side."""


def confusion_exhibit(models: Sequence[ScoredModel], *, standing: Standing, about: str) -> Exhibit:
    """Counts of right and wrong decisions by model."""
    rows = []
    for model in models:
        truth, decided = model.answers["label"] == 1, model.answers["rlvo"] == 1
        rows.append(
            {
                "model": model.name,
                "true_positive": int((truth & decided).sum()),
                "false_negative": int((truth & ~decided).sum()),
                "false_positive": int((~truth & decided).sum()),
                "true_negative": int((~truth & ~decided).sum()),
            }
        )
    table = pd.DataFrame(rows)
    caption = f"{about} Shade: share of the patients with, or without, rLVO."
    return Exhibit("confusion", "Confusion matrices", table, caption, standing, figure=_draw_confusion(table))


def votes_exhibit(answers: pd.DataFrame, tie: str, *, standing: Standing, about: str) -> Exhibit:
    """How many folds voted for rLVO, by what was true.

    Args:
        answers: `label`, `votes`, `folds` of each patient.
        tie: the ensemble's rule for even votes.
    """
    folds = int(answers["folds"].max())
    counts = {
        f"patients_{name}": [
            int(((answers["label"] == value) & (answers["votes"] == n)).sum()) for n in range(folds + 1)
        ]
        for value, name in ((0, "without_rlvo"), (1, "with_rlvo"))
    }
    table = pd.DataFrame({"votes": range(folds + 1), **counts})
    unanimous, tied = answers["votes"].isin([0, folds]).mean(), (2 * answers["votes"] == folds).mean()
    caption = f"{about} All {folds} folds agree on {unanimous:.0%} of the patients"
    caption += f"; {tied:.0%} are tied." if folds % 2 == 0 else "."
    return Exhibit(
        "votes",
        "Votes of the folds",
        table,
        caption.replace("%", " %"),
        standing,
        figure=_draw_votes(table, tie),
        is_narrow=True,
    )


@paper_style
def _draw_confusion(table: pd.DataFrame) -> Figure:
    rows = -(-len(table) // PER_ROW)
    figure = Figure(figsize=(PAGE_WIDTH, 1.75 * rows), layout="constrained")
    panels = figure.subplots(rows, PER_ROW, squeeze=False)
    for axes in panels.flat[len(table) :]:
        axes.axis("off")
    for axes, row in zip(panels.flat, table.to_dict("records"), strict=False):
        cells = [[row["true_positive"], row["false_negative"]], [row["false_positive"], row["true_negative"]]]
        counts = np.array(cells, float)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.4)
        for (y, x), count in np.ndenumerate(counts):
            axes.text(x, y, f"{count:.0f}", ha="center", va="center", color=INK, fontsize=9)
        axes.set(title=row["model"], xticks=[0, 1], yticks=[0, 1])
        axes.title.set_fontsize(7.5)
        axes.set_xticklabels(["alert", "no alert"])
        axes.set_yticklabels(["rLVO", "none"], rotation=90, va="center")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


@paper_style
def _draw_votes(table: pd.DataFrame, tie: str) -> Figure:
    figure = Figure(figsize=(3.3, 2.6), layout="constrained")
    axes = figure.subplots()
    without, having = table["patients_without_rlvo"], table["patients_with_rlvo"]
    axes.bar(table["votes"], without, color=PALE_INK, label="no rLVO", width=0.75)
    axes.bar(table["votes"], having, bottom=without, color=ORANGE, label="rLVO", width=0.75)
    folds = int(table["votes"].max())
    beside_tie = {"negative": 0.5, "positive": -0.5}.get(tie, 0.0) if folds % 2 == 0 else 0.0
    axes.axvline(folds / 2 + beside_tie, color=BLUE, linewidth=0.8, linestyle="--")
    axes.set(xlabel="Folds that vote for rLVO (right of the line: alert)", ylabel="Patients", xticks=table["votes"])
    axes.legend(loc="best", handlelength=1)
    return figure
