"""A picture of a prepared patient: is the head where the atlas is, and are the vessels vessels?"""

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
from rlvo.imaging.alignment.atlas import built_in_atlas, sample_mask
from rlvo.imaging.prepare import ROLE_NAMES, Prepared
from rlvo.imaging.target import WINDOWS

NORMS = {"ncct": PowerNorm(1.0, *WINDOWS["ncct"]), "cta": PowerNorm(0.6, *WINDOWS["cta"])}
"""Grey levels; those of the CTA are spread at the dark end, or brain would be black."""
SLAB_MM = {"ncct": 0.0, "cta": 12.0}
"""Thickness around the plane over which the maximum is shown: in a single slice most vessels are dots."""
WIDTH_INCHES, DPI = 9.6, 100
BEHIND = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.5}
"""What is behind letters on an image."""


@dataclass(frozen=True)
class Plane:
    """One view in radiological orientation: `sides` name its left and right edge."""

    name: str
    axis: int
    position: float  # RAS mm
    sides: tuple[str, str]

    def slab(self, array: np.ndarray, grid: Grid, thickness: float) -> np.ndarray:
        """Project the maximum of a volume [x, y, z] over `thickness` mm around the plane: [up, across]."""
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


def draw_overlay(prepared: Prepared, grid: Grid, path: Path) -> None:
    """Write a PNG of NCCT and CTA in three planes, with contours of the atlas (brain yellow, head cyan), vessels red.

    Raises OSError if the picture cannot be written.
    """
    atlas = built_in_atlas()
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
            axes.invert_xaxis()  # radiological orientation: the patient's right and front on the left
            axes.set_axis_off()
            _add_labels(axes, f"{ROLE_NAMES[name]}, {plane.name}", plane.sides)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=figure.get_facecolor())
    atomic_write(path, buffer.getvalue())


def _add_labels(axes: Axes, title: str, sides: tuple[str, str]) -> None:
    axes.text(0.02, 0.98, title, transform=axes.transAxes, ha="left", va="top", color="white", fontsize=11, bbox=BEHIND)
    label_sides(axes, sides)


def label_sides(axes: Axes, sides: tuple[str, str], fontsize: float = 11) -> None:
    """Write which sides of the patient are on the left and on the right of an image."""
    for x, at, side in ((0.02, "left", sides[0]), (0.98, "right", sides[1])):
        axes.text(
            x, 0.5, side, transform=axes.transAxes, ha=at, va="top", color="white", fontsize=fontsize, bbox=BEHIND
        )
