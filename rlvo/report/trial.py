"""A trial's pictures: how it learned, epoch by epoch, and the ROC curve of its checkpoint. Drawn in milliseconds."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_curve

from rlvo.evaluation.metrics import auc_interval, classification_metrics
from rlvo.evaluation.thresholds import youden_threshold
from rlvo.report.console import format_interval
from rlvo.report.style import BLUE, GREEN, GREY, ORANGE, paper_style

LOSSES = {"train/loss": ("training", GREY), "val/loss": ("validation", BLUE)}
METRICS = {"val/auc": ("AUC", BLUE), "val/balanced_accuracy": ("balanced accuracy", ORANGE), "val/f1": ("F1", GREEN)}


@paper_style
def learning_curves(epochs: Sequence[Mapping[str, float]], best_epoch: int | None = None) -> Figure:
    """Draw losses, and validation metrics, by epoch.

    Args:
        epochs: each with its number, `epoch`, from 1; undefined metrics are left out.
        best_epoch: marked by a line.
    """
    figure = Figure(figsize=(6.6, 2.6))
    panels = [figure.add_axes((left, 0.17, 0.4, 0.72)) for left in (0.08, 0.58)]
    for axes, curves, title in zip(panels, (LOSSES, METRICS), ("Loss", "Validation (optimistic)"), strict=True):
        for metric, (label, colour) in curves.items():
            points = [(epoch["epoch"], epoch[metric]) for epoch in epochs if metric in epoch]
            if points:
                marker = "o" if len(points) == 1 else ""
                axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker, linewidth=1.2)
        if best_epoch is not None:
            axes.axvline(best_epoch, color=GREY, linewidth=0.8, linestyle=":", label=f"best epoch, {best_epoch}")
        axes.set_title(title, loc="left", y=1.02)
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if axes.lines:
            axes.legend(loc="best" if curves is LOSSES else "lower right")
    panels[1].set_ylim(0, 1)
    return figure


@paper_style
def trial_roc(label: np.ndarray, probability: np.ndarray) -> Figure:
    """Draw the ROC curve of a trial on its fold's validation patients; a dot is at the threshold chosen on them.

    Args:
        label: 0 or 1 [N], both of them.
        probability: [N].
    """
    figure = Figure(figsize=(3.3, 3.3))
    axes: Axes = figure.add_axes((0.15, 0.13, 0.8, 0.8))
    found = classification_metrics(label, probability, youden_threshold(label, probability))
    area = format_interval(found["auc"], *auc_interval(label, probability))
    false_positive, true_positive, _ = roc_curve(label, probability)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.7, linestyle=":")
    axes.plot(false_positive, true_positive, color=BLUE, clip_on=False)
    at = 1 - found["specificity"], found["sensitivity"]
    axes.plot(*at, marker="o", color=BLUE, markersize=4, clip_on=False)
    axes.set(xlabel="1 − specificity", ylabel="Sensitivity", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_title(f"AUC {area}", loc="left", y=1.02)
    axes.text(0.98, 0.03, f"{len(label)} validation patients: optimistic\ndot: threshold chosen on them", ha="right")
    return figure
