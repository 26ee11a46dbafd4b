"""A picture of a prepared patient: does the head lie where the atlas says, and are the vessels vessels?"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from rlvo.config.grid import Grid
from rlvo.files import atomic_write
from rlvo.imaging.atlas import load_atlas, sample_mask
from rlvo.imaging.intensity import CTA_WINDOW, NCCT_WINDOW
from rlvo.imaging.prepare import NAMES, Prepared

NORMS = {"ncct": PowerNorm(1.0, *NCCT_WINDOW), "cta": PowerNorm(0.6, *CTA_WINDOW)}
"""Grey levels; those of the CTA are spread at the dark end, where brain would be black."""
SLAB_MM = {"ncct": 0.0, "cta": 12.0}
"""What is shown is the maximum over so much around the plane: one slice cuts most vessels to dots."""
WIDTH_INCHES, DPI = 9.6, 100


@dataclass(frozen=True)
class Plane:
    """One view, as radiologists hold it: `sides` name its left and right edge."""

    name: str
    axis: int
    position: float  # RAS mm
    sides: tuple[str, str]

    def slab(self, array: np.ndarray, grid: Grid, thickness: float) -> np.ndarray:
        """Maximum of a volume [x, y, z] over `thickness` mm around the plane: [up, across]."""
        centre = (self.position - grid.origin[self.axis]) / grid.spacing[self.axis]
        half = thickness / 2 / grid.spacing[self.axis]
        last = grid.shape[self.axis] - 1
        low, high = (int(np.clip(round(index), 0, last)) for index in (centre - half, centre + half))
        part = array[(slice(None),) * self.axis + (slice(low, high + 1),)]
        return np.asarray(part.max(axis=self.axis).T)


PLANES = (
    Plane("sagittal", 0, 12.0, ("A", "P")),
    Plane("coronal", 1, -18.0, ("R", "L")),
    Plane("axial", 2, 4.0, ("R", "L")),
)


def overlay_picture(prepared: Prepared, grid: Grid, path: Path) -> None:
    """Write a PNG: NCCT and CTA in three planes, with contours of the atlas (brain yellow, head cyan); vessels red.

    Raises:
        OSError: the picture cannot be written.
    """
    atlas = load_atlas()
    contours = {
        "yellow": sample_mask(atlas.brain, atlas.head.affine, grid),
        "cyan": sample_mask(atlas.head.array > -300, atlas.head.affine, grid),
    }
    shown = [name for name in ("ncct", "cta") if name in prepared.volumes]
    extent = np.multiply(grid.shape, grid.spacing)
    widths, height = extent[[1, 0, 0]], extent[1:].max()
    figure = Figure(figsize=(WIDTH_INCHES, WIDTH_INCHES * len(shown) * height / widths.sum()), facecolor="black")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(shown), 3, squeeze=False, width_ratios=widths.tolist())
    figure.subplots_adjust(left=0, bottom=0, right=1, top=1, wspace=0.02, hspace=0.02)
    for row, name in zip(panels, shown, strict=True):
        for axes, plane in zip(row, PLANES, strict=True):
            image = plane.slab(prepared.volumes[name], grid, SLAB_MM[name]).astype(np.float32)
            masks = {colour: plane.slab(mask, grid, 0) for colour, mask in contours.items()}
            if "vessels" in prepared.volumes:
                masks["red"] = plane.slab(prepared.volumes["vessels"], grid, SLAB_MM[name])
            across, up = (step for axis, step in enumerate(grid.spacing) if axis != plane.axis)
            axes.imshow(image, norm=NORMS[name], cmap="gray", origin="lower", aspect=up / across)
            for colour, mask in masks.items():
                if mask.any() and not mask.all():
                    axes.contour(mask, levels=[0.5], colors=[colour], linewidths=0.7)
            axes.invert_xaxis()  # patient's right and front on the left, as radiologists look at it
            axes.set_axis_off()
            _label(axes, f"{NAMES[name]}, {plane.name}", plane.sides)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=figure.get_facecolor())
    atomic_write(path, buffer.getvalue())


def _label(axes: Axes, title: str, sides: tuple[str, str]) -> None:
    behind = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.5}
    for x, y, alignment, text in (
        (0.02, 0.98, "left", title),
        (0.02, 0.5, "left", sides[0]),
        (0.98, 0.5, "right", sides[1]),
    ):
        axes.text(x, y, text, transform=axes.transAxes, ha=alignment, va="top", color="white", fontsize=11, bbox=behind)
