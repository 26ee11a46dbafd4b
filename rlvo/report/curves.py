"""A report's curves of scores: ROC and precision-recall, several models on the same patients."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from rlvo.report.console import format_interval
from rlvo.report.exhibit import Exhibit, Standing
from rlvo.report.model_tables import ScoredModel
from rlvo.report.style import COLOURS, GREY, INK, paper_style

SIDE = 3.3
"""Of a picture, in inches."""


def roc_exhibit(models: Sequence[ScoredModel], *, standing: Standing, about: str) -> Exhibit:
    """ROC curves of the scores; a mark shows where each model decides."""
    points = []
    for model in models:
        false_positive, true_positive, _ = roc_curve(model.answers["label"], model.answers["score"])
        points.append(_points(model.name, {"one_minus_specificity": false_positive, "sensitivity": true_positive}))
    table = pd.concat(points, ignore_index=True)
    legend = {model.name: _legend(model, "auc") for model in models}
    marks = {
        model.name: (1 - value["specificity"], value["sensitivity"])
        for model in models
        if (value := model.estimates["value"].to_dict())
    }
    figure = _draw(table, legend, "1 − specificity", "Sensitivity", marks=marks, diagonal=True)
    caption = f"{about} Area (AUC) with 95 % interval (DeLong, logit scale); dots: the decisions."
    return Exhibit("roc", "ROC curves", table, caption, standing, figure=figure, is_narrow=True)


def precision_recall_exhibit(models: Sequence[ScoredModel], *, standing: Standing, about: str) -> Exhibit:
    """Precision-recall curves of the scores."""
    points = []
    for model in models:
        precision, recall, _ = precision_recall_curve(model.answers["label"], model.answers["score"])
        points.append(_points(model.name, {"sensitivity": recall[::-1], "precision": precision[::-1]}))
    table = pd.concat(points, ignore_index=True)
    prevalence = float(models[0].answers["label"].mean())
    legend = {model.name: _legend(model, "auprc") for model in models}
    figure = _draw(table, legend, "Sensitivity (recall)", "Precision", level=prevalence)
    caption = (
        f"{about} Area (AUPRC) with 95 % interval (bootstrap; read it as one of 90 % if there are few events); dotted: "
        f"the prevalence, {prevalence:.2f}."
    )
    return Exhibit(
        "precision-recall", "Precision-recall curves", table, caption, standing, figure=figure, is_narrow=True
    )


def _points(name: str, columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    table.insert(0, "model", name)
    return table


def _legend(model: ScoredModel, metric: str) -> str:
    return f"{model.name} {format_interval(*model.estimates.loc[metric])}"


@paper_style
def _draw(
    table: pd.DataFrame,
    legend: Mapping[str, str],
    x: str,
    y: str,
    *,
    marks: Mapping[str, tuple[float, float]] | None = None,
    diagonal: bool = False,
    level: float | None = None,
) -> Figure:
    """One line per model, the last one, which is the study's own, the thickest."""
    figure = Figure(figsize=(SIDE, SIDE + 0.16 * len(legend)), layout="constrained")
    axes: Axes = figure.subplots()
    if diagonal:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle=":")
    if level is not None:
        axes.axhline(level, color=GREY, linewidth=0.7, linestyle=":")
    colours = dict(zip(legend, [*COLOURS, GREY, GREY, GREY, GREY], strict=False)) | {[*legend][-1]: INK}
    for name, words in legend.items():
        own = table[table["model"] == name]
        width = 1.8 if colours[name] == INK else 1.0
        across, up = own.columns[1:]
        steps = "default" if diagonal else "steps-post"
        axes.plot(
            own[across], own[up], color=colours[name], linewidth=width, label=words, drawstyle=steps, clip_on=False
        )
        if marks and name in marks:
            axes.plot(*marks[name], marker="o", color=colours[name], markersize=4, clip_on=False)
    axes.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1), aspect="equal")
    figure.legend(loc="outside lower center", ncols=1)
    return figure
