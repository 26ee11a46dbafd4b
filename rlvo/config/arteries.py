"""Where the large arteries lie in MNI space, and the boxes of a grid that hold them.

The atlas has no arteries. Their course is drawn here from textbook anatomy, wide enough for the patient's own course
and for the error of registration.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from rlvo.config.grid import Grid, Triple

Index = tuple[int, int, int]
Point = tuple[tuple[int, int, int], int]
"""RAS mm, and the distance (mm) up to which an artery may lie from it."""

COURSE: tuple[Point, ...] = (
    ((10, 2, -50), 10), ((11, 4, -30), 10), ((11, 5, -17), 9), ((24, 5, -15), 11), ((34, 6, -12), 15), ((42, 6, 2), 18),
)  # fmt: skip
"""Siphon, carotid end, M1 and proximal M2 on the right."""
PARTS = {"TICA": (1, 3), "M1": (2, 4), "M2": (3, 5)}
"""The part of the course in which an occlusion of each site begins or ends: first and last point."""
BASILAR: tuple[Point, ...] = (((0, -28, -44), 8), ((0, -17, -18), 8))
"""Basilar artery, from its beginning to its end in the posterior part of the circle of Willis."""


@dataclass(frozen=True)
class Box:
    """A box of voxels, of one size for all patients.

    Attributes:
        size: voxels along each axis.
        corners: its lowest voxel in heads whose occlusion is on the left: for each site of PARTS, or for all alike.
    """

    size: Index
    corners: tuple[Index, ...]


def occlusion_box(grid: Grid) -> Box:
    """The box that holds the part of the course where an occlusion of each site may be, on the affected side."""
    parts = [_bounds(COURSE[first : last + 1]) for first, last in PARTS.values()]
    half = (middle(grid.shape[0]), *grid.shape[1:])
    extents = [max(high[axis] - low[axis] for low, high in parts) for axis in range(3)]
    size = _size([min(max(1, round(mm / step)), n) for mm, step, n in zip(extents, grid.spacing, half, strict=True)])
    corners = []
    for low, high in parts:
        x, y, z = ((a + b) / 2 for a, b in zip(low, high, strict=True))
        axes = zip((-x, y, z), grid.origin, grid.spacing, size, half, strict=True)
        corners.append(_size([_first(centre, at, step, n, end) for centre, at, step, n, end in axes]))
    return Box(size, tuple(corners))


def vessels_box(grid: Grid, *, half: bool = False) -> Box:
    """The box that holds siphons, carotid ends, M1, proximal M2 and the basilar artery; symmetric about the midline.

    Args:
        half: what of it lies on the left, with the middle voxels if there are any.
    """
    low, high = _bounds((*COURSE, *BASILAR))
    nx, *others = grid.shape
    reach = min(max(1, round(high[0] / grid.spacing[0])), middle(nx))
    width = 2 * reach - nx % 2
    size, corner = [reach if half else width], [(nx - width) // 2]
    for axis, n in enumerate(others, start=1):
        size.append(min(max(1, round((high[axis] - low[axis]) / grid.spacing[axis])), n))
        centre = (low[axis] + high[axis]) / 2
        corner.append(_first(centre, grid.origin[axis], grid.spacing[axis], size[axis], n))
    return Box(_size(size), (_size(corner),))


def middle(voxels: int) -> int:
    """How many voxels along x belong to a half, the middle one to both."""
    return (voxels + 1) // 2


def why_no_box(grid: Grid) -> str | None:
    """Why boxes cannot be cut out of volumes on a grid; None if they can."""
    ends = [
        (at - step / 2, at + (n - 0.5) * step)
        for at, step, n in zip(grid.origin, grid.spacing, grid.shape, strict=True)
    ]
    if abs(sum(ends[0])) > grid.spacing[0]:
        return "the grid must reach equally far to the right and to the left of x = 0"
    for site, (first, last) in PARTS.items():
        low, high = _bounds(COURSE[first : last + 1])
        if any(not start <= (a + b) / 2 <= end for a, b, (start, end) in zip(low, high, ends, strict=True)):
            return f"the grid does not hold the place of {site} occlusions"
    return None


def _bounds(points: Iterable[Point]) -> tuple[Triple, Triple]:
    """Lowest and highest corner (RAS mm) of what lies near the points."""
    near = list(points)
    low = tuple(min(at[axis] - reach for at, reach in near) for axis in range(3))
    high = tuple(max(at[axis] + reach for at, reach in near) for axis in range(3))
    return (float(low[0]), float(low[1]), float(low[2])), (float(high[0]), float(high[1]), float(high[2]))


def _first(centre: float, origin: float, step: float, size: int, end: int) -> int:
    """The first of `size` voxels around `centre` (mm) that all lie before voxel `end`."""
    return max(0, min(round((centre - origin) / step - (size - 1) / 2), end - size))


def _size(voxels: list[int]) -> Index:
    x, y, z = voxels
    return x, y, z
