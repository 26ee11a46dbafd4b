"""On which side are there fewer vessels? A cross-check of `occlusion_side`, as no image tells left from right.

Beyond an occlusion CTA shows fewer vessels, so a scan whose header mirrors it, or a table with the sides swapped, shows
the poorer territory opposite to the named one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rlvo.config.grid import Grid

ASYMMETRY = "vessels/asymmetry"
"""The figure's name among those of a prepared patient."""

TERRITORY_MM = ((22.0, 72.0), (-40.0, 35.0), (-20.0, 40.0))
"""Distance from the midline, y and z (RAS mm) of the middle cerebral branches. Further back and lower the sigmoid
sinuses begin, of which one is the wider in most people."""
LEAST_ML = 0.3
"""With fewer vessels on both sides together nothing can be said."""
CLEAR = 0.3
"""Asymmetry, about two to one, from which the sides are told apart. Set on synthetic patients: none of 600 went beyond
0.08 towards the wrong side; how far healthy anatomy goes is not known here, hence the distance."""


def vessel_asymmetry(mask: np.ndarray, grid: Grid) -> float:
    """(R − L) / (R + L) of the vessel volumes in the middle cerebral territories, −1 to 1.

    Args:
        mask: [x, y, z] on `grid`, 0/1.

    Returns:
        Above 0 with more vessels on the right; NaN where there are too few.
    """
    x, y, z = (
        first + step * np.arange(n) for first, step, n in zip(grid.origin, grid.spacing, grid.shape, strict=True)
    )
    (near, far), *others = TERRITORY_MM
    in_y, in_z = ((low <= axis) & (axis <= high) for (low, high), axis in zip(others, (y, z), strict=True))
    slab = (mask > 0)[:, in_y][:, :, in_z].sum(axis=(1, 2))
    right, left = (int(slab[(near <= side) & (side <= far)].sum()) for side in (x, -x))
    if (right + left) * np.prod(grid.spacing) / 1000 < LEAST_ML:
        return float("nan")
    return (right - left) / (right + left)


def contradicts_side(asymmetry: float, side: str) -> str | None:
    """In words, where the side with clearly fewer vessels is not the occlusion's `side`; None where it may be."""
    poorer = "left" if asymmetry > 0 else "right"
    if np.isnan(asymmetry) or abs(asymmetry) < CLEAR or poorer == side:
        return None
    return f"fewer vessels on the {poorer}, but occlusion_side is {side}: are sides swapped in the table or the header?"


def side_doubts(figures: Mapping[str, float], side: str | None) -> tuple[str, ...]:
    """Doubts about the side of a prepared patient's occlusion, from its figures and `occlusion_side`; mostly none."""
    words = contradicts_side(figures[ASYMMETRY], side) if side and ASYMMETRY in figures else None
    return (words,) if words else ()
