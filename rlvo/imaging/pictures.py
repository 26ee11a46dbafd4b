"""A picture of a prepared patient: does the head lie where the atlas says?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rlvo.config.grid import Grid
from rlvo.imaging.atlas import load_atlas, sample_mask
from rlvo.imaging.intensity import CTA_WINDOW, NCCT_WINDOW
from rlvo.imaging.prepare import NAMES, Prepared

PLANES = (("sagittal", 0, 12.0), ("coronal", 1, -18.0), ("axial", 2, 12.0))
"""Name, axis and position (RAS mm) of the planes shown."""
WINDOWS = {"ncct": NCCT_WINDOW, "cta": CTA_WINDOW}


def overlay_picture(prepared: Prepared, grid: Grid, path: Path) -> None:
    """Draw NCCT and CTA in three planes, with contours of the atlas: brain yellow, head cyan; vessels red."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    atlas = load_atlas()
    contours = {
        "yellow": sample_mask(atlas.brain, atlas.head.affine, grid),
        "cyan": sample_mask(atlas.head.array > -300, atlas.head.affine, grid),
    }
    if "vessels" in prepared.volumes:
        contours["red"] = np.asarray(prepared.volumes["vessels"], dtype=bool)
    shown = [name for name in ("ncct", "cta") if name in prepared.volumes]
    figure = Figure(figsize=(12, 4 * len(shown)), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    for row, name in zip(figure.subplots(len(shown), 3, squeeze=False), shown, strict=True):
        for axes, (plane, axis, position) in zip(row, PLANES, strict=True):
            index = round((position - grid.origin[axis]) / grid.spacing[axis])
            index = min(max(index, 0), grid.shape[axis] - 1)
            across, up = (other for other in range(3) if other != axis)
            slices = {colour: np.take(mask, index, axis=axis).T for colour, mask in contours.items()}
            low, high = WINDOWS[name]
            image = np.take(prepared.volumes[name], index, axis=axis).T.astype(np.float32)
            aspect = grid.spacing[up] / grid.spacing[across]
            axes.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect)
            for colour, mask in slices.items():
                if mask.any() and not mask.all():
                    axes.contour(mask, levels=[0.5], colors=[colour], linewidths=0.8)
            axes.set_title(f"{NAMES[name]}, {plane}", color="white")
            axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, facecolor=figure.get_facecolor())
