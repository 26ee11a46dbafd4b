"""A study in one picture: ROC curves on the hold-out beside what the networks were shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure, FigureBase
from sklearn.metrics import roc_auc_score, roc_curve


@dataclass(frozen=True)
class RocCurve:
    """One model's ROC curve: labels (0 or 1) [N] and scores [N] on any monotone scale."""

    name: str
    y_true: np.ndarray
    score: np.ndarray


def draw_study_picture(
    path: Path,
    curves: Sequence[RocCurve],
    volumes: Mapping[str, np.ndarray],
    *,
    spacing: tuple[float, float, float],
    title: str,
) -> None:
    """Write a PNG: ROC curves (the last one dashed) beside one patient's volumes [x, y, z] (RAS), axial and coronal.

    Volumes are shown as maximum projections over 12 mm around the plane that holds most of the last one, the vessel
    mask. `spacing` is in mm.
    """
    figure = Figure(figsize=(4.6 + 2.2 * len(volumes), 4.8), layout="constrained")
    halves = figure.add_gridspec(1, 2, width_ratios=[4.6, 2.2 * len(volumes)])
    left, right = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    _draw_roc(left, curves)
    axes = right.subplots(2, len(volumes), squeeze=False)
    vessels = list(volumes.values())[-1]
    for column, (name, volume) in enumerate(volumes.items()):
        for row, (axis, across) in enumerate(((2, (0, 1)), (1, (0, 2)))):
            picture = _slab(volume, axis, int(np.argmax(vessels.sum(axis=across))), spacing[axis])
            aspect = spacing[across[1]] / spacing[across[0]]
            # Bone saturates both windows; brain, clot and contrast lie below 60 % of them.
            axes[row, column].imshow(picture.T, origin="lower", cmap="gray", aspect=aspect, vmax=0.6 * volume.max())
            axes[row, column].set(xticks=[], yticks=[])
        axes[0, column].set_title(name)
    axes[0, 0].set_ylabel("axial")
    axes[1, 0].set_ylabel("coronal")
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw_roc(figure: FigureBase, curves: Sequence[RocCurve]) -> None:
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":")
    for number, curve in enumerate(curves, start=1):
        false_positive, true_positive, _ = roc_curve(curve.y_true, curve.score)
        area = roc_auc_score(curve.y_true, curve.score)
        dash = "k--" if number == len(curves) else "-"
        axes.plot(false_positive, true_positive, dash, label=f"{curve.name}: {area:.2f}")
    axes.set(xlabel="1 − specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.legend(loc="lower right", fontsize=8, title="hold-out AUC")


def _slab(volume: np.ndarray, axis: int, plane: int, spacing: float) -> np.ndarray:
    """Maximum over 12 mm around `plane` along `axis`."""
    half = max(1, round(6 / spacing))
    planes = range(max(0, plane - half), min(volume.shape[axis], plane + half + 1))
    return np.asarray(np.take(volume, planes, axis=axis).max(axis))
