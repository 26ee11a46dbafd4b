"""Where imaging biomarkers are looked for: a box of 1 mm voxels in atlas space, mirrored about the midline.

The atlas has no ASPECTS regions. They are drawn here from textbook anatomy in MNI space, as the arteries' course is in
`config.arteries`.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from rlvo.config.arteries import COURSE, PARTS
from rlvo.config.grid import Grid
from rlvo.imaging.volume import grid_axes

BOX = Grid(shape=(145, 121, 116), spacing=(1, 1, 1), origin=(-72, -66, -54))
"""From the petrous carotid to above the Sylvian branches; x = 0 is its middle plane, so that it can be flipped."""
MIDLINE_MM = 2
"""So close to the midline, the side is not certain."""
DEEP = ((26, 0, 4), (14, 22, 14))
"""Insula and lentiform nucleus on the right: centre and radii, RAS mm."""
CORTEX = ((50, 0, 18), (16, 34, 26))
"""Middle cerebral territory lateral of it."""
BRANCHES = ((25, 64), (-8, 46))
"""Distance from the midline and z (mm) between which the branches beyond M1 lie."""
THIRDS = ((-60, -14), (-14, 16), (16, 50))
"""y (mm) of posterior, middle and anterior branches: if one M2 is occluded, the other fills its own."""


@dataclass(frozen=True, eq=False)
class Regions:
    """Where to look, bool [x, y, z] on `BOX`, both sides together.

    Attributes:
        trunk: siphon, carotid end, M1, proximal M2.
        parts: the part of the trunk that belongs to each occlusion site.
        deep, cortex: of the middle cerebral territory, apart from each other.
        thirds: posterior, middle and anterior branches.
        right, left: the halves.
    """

    trunk: np.ndarray
    parts: dict[str, np.ndarray]
    deep: np.ndarray
    cortex: np.ndarray
    thirds: tuple[np.ndarray, ...]
    right: np.ndarray
    left: np.ndarray

    def side(self, name: str) -> np.ndarray:
        """The half of a side, `left` or `right`."""
        return self.right if name == "right" else self.left


@cache
def regions() -> Regions:
    """Draw the regions, once in a process."""
    x, y, z = np.meshgrid(*grid_axes(BOX), indexing="ij", sparse=True)
    lateral = np.abs(x)
    low_high = (lateral >= BRANCHES[0][0]) & (lateral <= BRANCHES[0][1]) & (z >= BRANCHES[1][0]) & (z <= BRANCHES[1][1])

    def along(first: int, last: int) -> np.ndarray:
        near = np.zeros(BOX.shape, bool)
        for (start, wide), (end, narrow) in zip(COURSE[first:last], COURSE[first + 1 : last + 1], strict=True):
            steps = np.subtract(end, start).astype(float)
            offsets = [axis - corner for axis, corner in zip((lateral, y, z), start, strict=True)]
            share = sum(offset * step for offset, step in zip(offsets, steps, strict=True)) / (steps @ steps)
            share = np.clip(share, 0, 1)
            apart = sum((offset - share * step) ** 2 for offset, step in zip(offsets, steps, strict=True))
            near |= apart <= (wide + share * (narrow - wide)) ** 2
        return np.asarray(near & (lateral >= MIDLINE_MM))

    def ellipsoid(centre: tuple[int, ...], radii: tuple[int, ...]) -> np.ndarray:
        parts = ((axis - at) / radius for axis, at, radius in zip((lateral, y, z), centre, radii, strict=True))
        return np.asarray(sum(part**2 for part in parts) <= 1)

    deep = ellipsoid(*DEEP)
    return Regions(
        trunk=along(0, len(COURSE) - 1),
        parts={site: along(*ends) for site, ends in PARTS.items()},
        deep=deep,
        cortex=ellipsoid(*CORTEX) & ~deep,
        thirds=tuple(low_high & (y >= back) & (y <= front) for back, front in THIRDS),
        right=np.broadcast_to(x > 0, BOX.shape),
        left=np.broadcast_to(x < 0, BOX.shape),
    )
