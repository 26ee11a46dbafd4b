"""Which side shows fewer vessels? A cross-check of `occlusion_side`, since no image tells left from right.

Beyond an occlusion, CTA shows fewer vessels. If a header mirrors a scan, or a table has the sides swapped, the side
with fewer vessels is not the one given.
"""

from collections.abc import Mapping

import numpy as np

from rlvo.config.grid import Grid
from rlvo.imaging.volume import grid_axes

ASYMMETRY = "vessels/asymmetry"
"""Name of the figure among those of a prepared patient."""

TERRITORY_MM = ((22.0, 72.0), (-40.0, 35.0), (-20.0, 40.0))
"""Distance from the midline, y and z (RAS mm) of the middle cerebral branches. Behind and below this are the sigmoid
sinuses, one of which is wider than the other in most people."""
LEAST_ML = 0.3
"""With fewer vessels than this on both sides together, nothing can be said."""
CLEAR = 0.3
"""Asymmetry (about two to one) from which the sides are told apart. Set on synthetic patients: none of 600 went beyond
0.08 towards the wrong side. How asymmetric healthy anatomy can be is not known here, hence the distance."""


def vessel_asymmetry(mask: np.ndarray, grid: Grid) -> float:
    """Compute (R − L) / (R + L) of the vessel volumes in the middle cerebral territories, −1 to 1; NaN for too few.

    `mask` is 0/1, [x, y, z] on `grid`.
    """
    x, y, z = grid_axes(grid)
    (near, far), *others = TERRITORY_MM
    in_y, in_z = ((low <= axis) & (axis <= high) for (low, high), axis in zip(others, (y, z), strict=True))
    slab = (mask > 0)[:, in_y][:, :, in_z].sum(axis=(1, 2))
    right, left = (int(slab[(near <= side) & (side <= far)].sum()) for side in (x, -x))
    if (right + left) * np.prod(grid.spacing) / 1000 < LEAST_ML:
        return float("nan")
    return (right - left) / (right + left)


def side_doubts(figures: Mapping[str, float], side: str | None) -> tuple[str, ...]:
    """Doubt the `occlusion_side` of a prepared patient if its figures show clearly fewer vessels on the other side."""
    asymmetry = figures.get(ASYMMETRY, float("nan"))
    poorer = "left" if asymmetry > 0 else "right"
    if not side or np.isnan(asymmetry) or abs(asymmetry) < CLEAR or poorer == side:
        return ()
    what = f"fewer vessels on the {poorer}, but occlusion_side is {side}"
    return (f"{what}: are the sides swapped in the table or the header?",)
