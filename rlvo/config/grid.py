"""The voxel grid in MNI space that every prepared volume is on.

Arrays are indexed [x, y, z] in RAS+ order (x to the right, y to the front, z upwards); lengths are in millimetres.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, PositiveFloat, PositiveInt

from rlvo.config.base import Frozen

ATLAS_FIRST_VOXEL = (-98.0, -134.0, -72.0)
"""Centre of the first voxel of the ICBM152 2009a images at 1 mm (RAS mm)."""
ATLAS_SHAPE = (197, 233, 189)
"""Size of the ICBM152 2009a images at 1 mm, in voxels: the atlas field of view."""
PAPER_SHAPE = (246, 295, 258)
"""Grid of the paper (section 2.2.1)."""

Triple = tuple[float, float, float]


class Grid(Frozen):
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
        affine = np.diag([*self.spacing, 1.0])
        affine[:3, 3] = self.origin
        return affine


def over_field_of_view(shape: tuple[int, int, int]) -> Grid:
    """The grid of `shape` voxels that fills the atlas field of view (METHOD: spacing derived from the grid)."""
    spacing = tuple(extent / n for extent, n in zip(ATLAS_SHAPE, shape, strict=True))
    origin = tuple(first - 0.5 + step / 2 for first, step in zip(ATLAS_FIRST_VOXEL, spacing, strict=True))
    return Grid(shape=shape, spacing=spacing, origin=origin)


PRESETS: dict[str, Grid] = {
    "paper": over_field_of_view(PAPER_SHAPE),
    "whole": Grid(shape=(40, 48, 40), spacing=(4, 4, 4), origin=(-78, -112, -62)),
    "focus": Grid(shape=(32, 24, 20), spacing=(4, 4, 4), origin=(-62, -35, -40)),
}
"""`paper`: the paper's shape over the atlas. `whole`, `focus`: 4 mm grids of the synthetic cohort and the demo."""


def _preset(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value not in PRESETS:
        raise ValueError(f"unknown preset; use {', '.join(PRESETS)}, or give shape, spacing and origin")
    return PRESETS[value]


GridField = Annotated[Grid, BeforeValidator(_preset, json_schema_input_type=Literal["paper", "whole", "focus"] | Grid)]
