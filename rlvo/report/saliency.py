"""A saliency map in pictures (the paper's Fig. 3): CTA, map before the fusion, after it, and over the CTA."""

import textwrap
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from rlvo.config.grid import Grid
from rlvo.explain.faithfulness import Faithfulness
from rlvo.explain.gradcam import MeanMaps, Which
from rlvo.imaging.prepare import ROLE_NAMES
from rlvo.report.pictures import NORMS, PLANES, SLAB_MM, Plane
from rlvo.report.style import INK, ORANGE, PAGE_WIDTH, paper_style

Panel = Literal["scan", "before", "after", "over"]
PANELS: tuple[Panel, ...] = get_args(Panel)
COLOURS = "viridis"
COVER = 0.65
"""Opacity of the overlay where the map is largest; it falls to nothing where the map is 0."""
LEFT_INCHES, SCALE_INCHES = 0.03, 0.48
"""Left of the pictures, and right of them, for the colour scale."""
TITLE_INCHES, LINE_INCHES, HEADING_INCHES = 0.28, 0.15, 0.17
NARROW_LINE = 56
"""Characters of a line in the narrow figure, if all are bold."""
NAMES: Mapping[Which, str] = {"before": "before the fusion", "after": "after the fusion"}
ALL_ZERO = "all zero:\nnothing in the image\nspeaks for rLVO"


@paper_style
def saliency_figure(
    volumes: Mapping[str, np.ndarray],
    maps: MeanMaps,
    grid: Grid,
    *,
    title: str,
    checks: Mapping[Which, Faithfulness] | None = None,
    side: str | None = None,
    is_narrow: bool = False,
) -> Figure:
    """Draw CTA (or NCCT), the map before and after the fusion, and the latter over the CTA, vessels outlined in red.

    Axial and coronal slices go through the maximum of the map after the fusion (before it, or through the vessels, if
    that is all zero), on one side only if `side` is given. Both maps share one scale, which begins at 0. Below
    the pictures stand the figures of the checks; a map that fails them says so.

    Args:
        volumes: prepared volumes [x, y, z] by name, with `cta` or `ncct`, and `vessels` if there are any.
        maps: on the same grid.
        title: of the figure; names no patient unless the caller does.
        checks: of the maps, if they were checked.
        side: `left` or `right`, e.g. that of the occlusion.
        is_narrow: two pictures in a row and half as wide, for small screens.
    """
    point = slice_point(volumes, maps, grid, side)
    planes = [replace(plane, position=point[plane.axis]) for plane in reversed(PLANES) if plane.name != "sagittal"]
    scan = "cta" if "cta" in volumes else "ncct"
    scale = Normalize(0, max(float(maps.before.max()), float(maps.after.max())) or 1.0)
    lines = _sentences(maps, checks or {})
    headings = (ROLE_NAMES[scan], "before the fusion", "after the fusion", "after, over the scan")
    contents = [*zip(PANELS, headings, strict=True)]
    rows = [(plane, contents) for plane in planes]
    total_width = PAGE_WIDTH
    if is_narrow:
        rows = [(plane, half) for plane in planes for half in (contents[:2], contents[2:])]
        lines = [(part, failed) for line, failed in lines for part in textwrap.wrap(line, NARROW_LINE)]
        total_width = PAGE_WIDTH / 2
    width = (total_width - LEFT_INCHES - SCALE_INCHES) / len(rows[0][1])
    heights = [width * _extent(grid, _up(plane)) / _extent(grid, 0) for plane, _ in rows]
    headed = [number for number in range(len(rows)) if is_narrow or number == 0]
    text = LINE_INCHES * len(lines) + 0.1
    total = sum(heights) + text + TITLE_INCHES + HEADING_INCHES * len(headed)
    figure = Figure(figsize=(total_width, total))
    top = total - TITLE_INCHES
    for number, ((plane, panels), height) in enumerate(zip(rows, heights, strict=True)):
        top -= HEADING_INCHES * (number in headed) + height
        for column, (content, heading) in enumerate(panels):
            left = (LEFT_INCHES + column * width) / total_width
            axes = figure.add_axes((left, top / total, 0.99 * width / total_width, 0.99 * height / total))
            _draw_panel(axes, volumes, maps, grid, plane, scan, scale, content)
            if number in headed:
                axes.set_title(heading, fontsize=8, pad=3)
            if column == 0:
                _label(axes, 0.02, 0.98, plane.name)
    left, tall = 1 - (SCALE_INCHES - 0.08) / total_width, heights[-1] if is_narrow else sum(heights)
    bar = figure.add_axes((left, top / total, 0.08 / total_width, tall / total))
    figure.colorbar(ScalarMappable(scale, COLOURS), cax=bar)
    bar.set_title("× even", fontsize=6.5, fontweight="normal")
    figure.text(0.01, 1 - 0.12 / total, title, fontsize=9, fontweight="bold", va="center")
    for number, (line, is_failure) in enumerate(lines):
        y = LINE_INCHES * (len(lines) - number - 0.5) / total
        colour, weight = (ORANGE, "bold") if is_failure else (INK, "normal")
        figure.text(0.01, y, line, fontsize=7, color=colour, fontweight=weight, va="center")
    return figure


def slice_point(
    volumes: Mapping[str, np.ndarray], maps: MeanMaps, grid: Grid, side: str | None = None
) -> tuple[float, float, float]:
    """Where the slices go through, RAS mm: the maximum of what there is to see, on one side if `side` is given."""
    seen = next(
        (each for each in (maps.after, maps.before, volumes.get("vessels")) if each is not None and each.any()),
        np.ones(grid.shape),
    )
    weight = np.asarray(seen, dtype=np.float64)
    if side is not None:
        x = grid.origin[0] + grid.spacing[0] * np.arange(grid.shape[0])
        on_side = (x > 0 if side == "right" else x < 0)[:, None, None]
        weight = weight * on_side if (weight * on_side).any() else weight
    index = np.argwhere(weight == weight.max())
    x_mm, y_mm, z_mm = np.add(grid.origin, np.multiply(index[len(index) // 2], grid.spacing)).tolist()
    return x_mm, y_mm, z_mm


def _up(plane: Plane) -> int:
    """The axis that points up in the picture."""
    return 1 if plane.axis == 2 else 2


def _extent(grid: Grid, axis: int) -> float:
    return grid.shape[axis] * grid.spacing[axis]


def _draw_panel(
    axes: Axes,
    volumes: Mapping[str, np.ndarray],
    maps: MeanMaps,
    grid: Grid,
    plane: Plane,
    scan: str,
    scale: Normalize,
    content: Panel,
) -> None:
    """Draw one slice of the scan, of a map, or of the map after the fusion over the scan."""
    across, up = (step for axis, step in enumerate(grid.spacing) if axis != plane.axis)
    which: Which = "before" if content == "before" else "after"
    slab = plane.slab(maps.of(which), grid, 0)
    if content in ("scan", "over"):
        image = plane.slab(volumes[scan], grid, SLAB_MM[scan]).astype(np.float32)
        axes.imshow(image, norm=NORMS[scan], cmap="gray", origin="lower", aspect=up / across)
    if content == "over":
        opacity = np.clip(COVER * slab / scale.vmax, 0, 1) if scale.vmax else np.zeros_like(slab)
        axes.imshow(slab, norm=scale, cmap=COLOURS, alpha=opacity, origin="lower", aspect=up / across)
    if content in ("before", "after"):
        if maps.is_silent(which):
            axes.imshow(np.zeros((*slab.shape, 3)), origin="lower", aspect=up / across)
            axes.text(0.5, 0.5, ALL_ZERO, transform=axes.transAxes, ha="center", va="center", color="white", fontsize=7)
        else:
            axes.imshow(slab, norm=scale, cmap=COLOURS, origin="lower", aspect=up / across)
    if "vessels" in volumes:
        mask = plane.slab(volumes["vessels"], grid, SLAB_MM["cta"])
        if mask.any() and not mask.all():
            axes.contour(mask, levels=[0.5], colors=["red"], linewidths=0.5)
    axes.invert_xaxis()  # radiological orientation, as in `pictures`
    axes.set_axis_off()
    _label(axes, 0.02, 0.12, plane.sides[0])
    _label(axes, 0.93, 0.12, plane.sides[1])


def _label(axes: Axes, x: float, y: float, text: str) -> None:
    behind = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.2}
    axes.text(x, y, text, transform=axes.transAxes, va="top", color="white", fontsize=6.5, bbox=behind)


def _sentences(maps: MeanMaps, checks: Mapping[Which, Faithfulness]) -> list[tuple[str, bool]]:
    """What stands below the pictures, and which of it is a failure."""
    lines = [
        (f"All zero in {count} of {maps.networks} networks {NAMES[which]}.", False)
        for which, count in maps.silent.items()
        if count and not maps.is_silent(which)
    ]
    lines += [
        (f"The map {NAMES[which]} is all zero in all {maps.networks} networks.", False)
        for which in maps.silent
        if maps.is_silent(which)
    ]
    for which, check in checks.items():
        lines += [(sentence, False) for sentence in check_sentences(check)]
        lines += [(f"FAILED, {NAMES[which]}: {why}.", True) for why in check.failures if not maps.is_silent(which)]
    return lines


def check_sentences(check: Faithfulness) -> list[str]:
    """The figures of a check in words; none if there was nothing to check."""
    if check.deletion is None or check.insertion is None:
        return []
    figures = ", ".join(f"{value:.2f}" for value in check.similarity.values()).replace("-", "−")
    name = NAMES[check.which].capitalize()
    areas = [
        f"{kind} {curve.area:.3f} (random orders {np.mean(curve.random):.3f})"
        for kind, curve in (("deletion", check.deletion), ("insertion", check.insertion))
    ]
    return [
        f"{name}, correlation with shuffled weights from the head to all layers: {figures}.",
        f"{name}, area by {', by '.join(areas)}.",
    ]
