"""The voxel grid in MNI space that every prepared volume is on.

Arrays are indexed [x, y, z] in RAS+ order (x to the right, y to the front, z upwards); lengths are in millimetres.
"""

from __future__ import annotations

from math import ceil, floor
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, PositiveFloat, PositiveInt

from rlvo.config.base import Section

if TYPE_CHECKING:
    import numpy as np  # every command reads this module, and `rlvo status` starts without NumPy

ATLAS_FIRST_VOXEL = (-98.0, -134.0, -72.0)
"""Centre of the first voxel of the ICBM152 2009a images at 1 mm (RAS mm)."""
ATLAS_SHAPE = (197, 233, 189)
"""Size of the ICBM152 2009a images at 1 mm, in voxels: the atlas field of view."""
PAPER_SHAPE = (246, 295, 258)
"""Grid of the paper (section 2.2.1)."""

Triple = tuple[float, float, float]
HEAD_BOX = ((-88.5, -123.5, -72.5), (88.5, 89.5, 97.5))
"""Lowest and highest corner (RAS mm) of the atlas's head, with 3 mm around it for the error of registration: 15 mm and
more around the brain. Below, it ends with the atlas."""


class Grid(Section):
    """Shape in voxels, spacing in mm, centre of the first voxel in RAS mm; the axes are those of MNI space."""

    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Voxels along each axis."""
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    """Size of a voxel along each axis, in mm."""
    origin: Triple
    """Centre of the first voxel in RAS mm."""

    @property
    def affine(self) -> np.ndarray:
        """4×4 voxel-to-RAS matrix."""
        import numpy as np

        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = self.origin
        return affine


def over_field_of_view(shape: tuple[int, int, int]) -> Grid:
    """The grid of `shape` voxels that fills the atlas field of view (METHOD: spacing derived from the grid)."""
    spacing = tuple(extent / n for extent, n in zip(ATLAS_SHAPE, shape, strict=True))
    origin = tuple(first - 0.5 + step / 2 for first, step in zip(ATLAS_FIRST_VOXEL, spacing, strict=True))
    return Grid(shape=shape, spacing=spacing, origin=origin)


def crop(grid: Grid, lowest: Triple, highest: Triple) -> Grid:
    """The part of a grid whose voxels reach into the box between two corners (RAS mm)."""
    axes = list(zip(grid.origin, grid.spacing, grid.shape, strict=True))
    first = [max(0, floor((low - x) / step + 0.5)) for low, (x, step, _) in zip(lowest, axes, strict=True)]
    end = [min(n, ceil((high - x) / step + 0.5)) for high, (x, step, n) in zip(highest, axes, strict=True)]
    origin = tuple(x + i * step for i, (x, step, _) in zip(first, axes, strict=True))
    return Grid(shape=tuple(b - a for a, b in zip(first, end, strict=True)), spacing=grid.spacing, origin=origin)


PAPER = over_field_of_view(PAPER_SHAPE)
PRESETS: dict[str, Grid] = {
    "paper": PAPER,
    "head": crop(PAPER, *HEAD_BOX),
    "whole": Grid(shape=(40, 48, 40), spacing=(4, 4, 4), origin=(-78, -112, -62)),
    "focus": Grid(shape=(32, 24, 20), spacing=(4, 4, 4), origin=(-62, -35, -40)),
    "arteries": Grid(shape=(44, 16, 44), spacing=(2, 2, 2), origin=(-43, -9, -71)),
}
"""`paper`: the paper's shape over the atlas. `head`: its voxels that hold the head. `whole`, `focus`: 4 mm grids
of the synthetic cohort and the demo. `arteries`: 2 mm around both carotid ends, M1 and the first M2, which holds what
the synthetic profile `paper` shows, and enough of the skull below for a volume to be compared with the atlas."""


def _preset(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in PRESETS:
        raise ValueError(f"unknown preset; use {', '.join(PRESETS)}, or give shape, spacing and origin")
    return PRESETS[value]


GridField = Annotated[
    Grid, BeforeValidator(_preset, json_schema_input_type=Literal["paper", "head", "whole", "focus", "arteries"] | Grid)
]
