"""The picture of a pretraining: its curve, and a slice of a volume that was held back. It shows a patient's head."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from rlvo.files import atomic_write, private
from rlvo.report.style import BLUE, GREY, ORANGE, PAGE_WIDTH, paper_style, png

COLUMNS = ("original", "what the network saw", "what it told of the rest")


@paper_style
def draw_pretraining(epochs: Sequence[Mapping[str, float]], example: Path, out: Path) -> None:
    """Write a PNG that its owner alone may read.

    Args:
        epochs: the metrics of each.
        example: as `training.pretraining` writes it: arrays [T, x, y].
    """
    with np.load(example, allow_pickle=False) as file:
        original, told, hidden = (file[name] for name in ("original", "reconstructed", "hidden"))
    hidden = np.broadcast_to(hidden, original.shape) > 0.5
    rows = len(original)
    figure = Figure(figsize=(PAGE_WIDTH, 1.9 * max(rows, 1)), layout="constrained")
    curve, *slices = figure.subplot_mosaic(
        [["curve", *(f"{row}.{column}" for column in range(3))] for row in range(rows)], width_ratios=[1.6, 1, 1, 1]
    ).values()
    steps = range(1, len(epochs) + 1)
    for name, words, colour in (("train/loss", "training", BLUE), ("val/loss", "held back", ORANGE)):
        curve.plot(steps, [epoch[name] for epoch in epochs], color=colour, label=words)
    curve.axhline(1, color=GREY, linewidth=0.7, linestyle=":")
    curve.set(xlabel="Epoch", ylabel="Error / error of the mean", ylim=(0, None))
    curve.legend()
    for row, (whole, reconstructed, mask) in enumerate(zip(original, told, hidden, strict=True)):
        images = (whole, np.where(mask, np.nan, whole), np.where(mask, reconstructed, whole))
        for column, (axes, image) in enumerate(zip(slices[3 * row : 3 * row + 3], images, strict=True)):
            axes.imshow(image.T, cmap="gray", origin="lower", vmin=whole.min(), vmax=whole.max())
            axes.invert_xaxis()
            axes.set_axis_off()
            if row == 0:
                axes.set_title(COLUMNS[column], fontsize=7)
    atomic_write(out, png(figure))
    private(out)
