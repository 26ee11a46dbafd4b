"""A study in one picture: ROC curves on the hold-out beside what the networks were shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from sklearn.metrics import roc_auc_score, roc_curve

from rlvo.report.console import format_interval
from rlvo.report.pictures import label_sides
from rlvo.report.style import COLOURS, GREY, INK, PALE_INK

SIZE = (7.2, 4.9)
"""In inches: small enough for its letters to be read on a phone."""


@dataclass(frozen=True)
class RocCurve:
    """One model's ROC curve: labels (0 or 1) and scores [N] on any monotone scale, and the 95 % interval of its AUC."""

    name: str
    y_true: np.ndarray
    score: np.ndarray
    interval: tuple[float, float] = (np.nan, np.nan)
    is_baseline: bool = False
    """Whether it is what the others have to beat."""


def draw_study_picture(
    path: Path,
    curves: Sequence[RocCurve],
    volumes: Mapping[str, np.ndarray],
    *,
    spacing: tuple[float, float, float],
    title: str,
    notes: Sequence[str] = (),
) -> None:
    """Write the `study_picture` as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    study_picture(curves, volumes, spacing=spacing, title=title, notes=notes).savefig(path, dpi=190)


def study_picture(
    curves: Sequence[RocCurve],
    volumes: Mapping[str, np.ndarray],
    *,
    spacing: tuple[float, float, float],
    title: str,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw ROC curves (the last one thick) beside one patient's volumes [x, y, z] (RAS), axial and coronal.

    Volumes are shown in radiological orientation, as maximum projections over 12 mm around the plane that holds most of
    the last one, the vessel mask. `spacing` is in mm. `notes` are lines below the curves' names and AUCs.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    below = 0.25 + 0.19 * (-(-len(curves) // 2) + len(notes))
    parts = figure.add_gridspec(2, 2, height_ratios=[SIZE[1] - below, below], width_ratios=[1, 1.05])
    left, right, lower = (figure.add_subfigure(part) for part in (parts[0, 0], parts[0, 1], parts[1, :]))
    handles = _draw_roc(left.subplots(), curves)
    _draw_volumes(right, volumes, spacing)
    lower.legend(
        handles=handles,
        loc="upper center",
        borderaxespad=0,
        ncols=2,
        fontsize=9,
        frameon=False,
        title="AUC (95 % CI)",
        title_fontsize=9,
    )
    lower.text(0.5, 0.02, "\n".join(notes), ha="center", va="bottom", fontsize=8.5, color=GREY)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def _draw_roc(axes: Axes, curves: Sequence[RocCurve]) -> list[Any]:
    """Draw the curves; return a line of each for the legend."""
    axes.plot([0, 1], [0, 1], color=PALE_INK, linewidth=1, linestyle=":")
    colours = iter([*COLOURS, *[PALE_INK] * len(curves)])
    lines = []
    for number, curve in enumerate(curves, start=1):
        false_positive, true_positive, _ = roc_curve(curve.y_true, curve.score)
        area = format_interval(float(roc_auc_score(curve.y_true, curve.score)), *curve.interval)
        is_own = number == len(curves)
        lines += axes.plot(
            false_positive,
            true_positive,
            color=INK if is_own else GREY if curve.is_baseline else next(colours),
            linestyle="--" if curve.is_baseline else "-",
            linewidth=2.4 if is_own else 1.4,
            label=f"{curve.name}: {area}",
        )
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    axes.set_xlabel("1 − specificity", fontsize=10)
    axes.set_ylabel("sensitivity", fontsize=10)
    return lines


def _draw_volumes(figure: FigureBase, volumes: Mapping[str, np.ndarray], spacing: tuple[float, float, float]) -> None:
    axes = figure.subplots(2, len(volumes), squeeze=False)
    vessels = list(volumes.values())[-1]
    for column, (name, volume) in enumerate(volumes.items()):
        for row, (axis, across) in enumerate(((2, (0, 1)), (1, (0, 2)))):
            picture = _slab(volume, axis, int(np.argmax(vessels.sum(axis=across))), spacing[axis])
            aspect = spacing[across[1]] / spacing[across[0]]
            # Bone saturates both windows; brain, clot and contrast lie below 60 % of them.
            axes[row, column].imshow(picture.T, origin="lower", cmap="gray", aspect=aspect, vmax=0.6 * volume.max())
            axes[row, column].set(xticks=[], yticks=[])
            axes[row, column].invert_xaxis()
            axes[row, column].set_anchor("SN"[row])
            label_sides(axes[row, column], ("R", "L"), fontsize=9)
        axes[0, column].set_title(name, fontsize=10)
    axes[0, 0].set_ylabel("axial", fontsize=10)
    axes[1, 0].set_ylabel("coronal", fontsize=10)


def _slab(volume: np.ndarray, axis: int, plane: int, spacing: float) -> np.ndarray:
    """Maximum over 12 mm around `plane` along `axis`."""
    half = max(1, round(6 / spacing))
    planes = range(max(0, plane - half), min(volume.shape[axis], plane + half + 1))
    return np.asarray(np.take(volume, planes, axis=axis).max(axis))
