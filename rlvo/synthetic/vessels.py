"""The vessel tree of the phantom and what an occlusion does to it.

Centre lines are in atlas millimetres (RAS) relative to the plane of the ICA terminus, for the right side; the left is
its mirror image. Radii (mm) taper linearly along a segment.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

TERMINUS = np.array([0.0, 5.0, -18.0])
WOBBLE_MM = 0.8


@dataclass(frozen=True)
class Segment:
    """One artery between two branchings; `parent` is the segment that it continues."""

    name: str
    points: tuple[tuple[float, float, float], ...]
    radii: tuple[float, float]
    parent: str | None = None


SEGMENTS = (
    Segment("ICA", ((8, -2, -34), (7, 4, -18), (10, -4, -8), (8, 0, 0)), (2.0, 2.0)),
    Segment("M1", ((8, 0, 0), (18, 1, 2), (26, 0, 3)), (1.5, 1.4), "ICA"),
    Segment("M2a", ((26, 0, 3), (34, 10, 12), (40, 12, 22)), (1.2, 1.0), "M1"),
    Segment("M2b", ((26, 0, 3), (36, -8, 8), (42, -18, 16)), (1.2, 1.0), "M1"),
    Segment("M3a", ((40, 12, 22), (46, 26, 48)), (0.9, 0.6), "M2a"),
    Segment("M3b", ((40, 12, 22), (50, 2, 56)), (0.9, 0.6), "M2a"),
    Segment("M3c", ((42, -18, 16), (50, -26, 52)), (0.9, 0.6), "M2b"),
    Segment("M3d", ((42, -18, 16), (40, -58, 24)), (0.9, 0.6), "M2b"),
    Segment("A1", ((8, 0, 0), (2, 14, 4)), (1.1, 1.1), "ICA"),
    # No parent: after an ICA occlusion, A2 fills through the anterior communicating artery.
    Segment("A2", ((2, 14, 4), (2, 34, 16), (2, 30, 44), (2, 0, 58)), (1.0, 0.7)),
    Segment("PCA", ((3, -18, -2), (18, -26, 2), (22, -48, 6), (12, -72, 12)), (1.1, 0.7)),
)
BASILAR = Segment("basilar", ((0, -14, -34), (0, -16, -2)), (1.6, 1.6))
PARENT = {segment.name: segment.parent for segment in SEGMENTS}
TRUNK = ("ICA", "M1", "M2a", "M3a")
"""The path of clots and plaques."""
HOSTS = {"TICA": ("ICA", 0.90), "M1": ("M1", 0.45), "M2": ("M2a", 0.35)}
"""The occluded segment of each occlusion site, and the mean position along it."""
CLOT_MM, PLAQUE_MM = 10.0, 6.0


@dataclass(frozen=True)
class Lesion:
    """A patient's occlusion as in the table, the two image latents, and the length of the clot, mm."""

    side: str
    site: str
    z_cta: float
    z_ncct: float
    clot_mm: float = CLOT_MM


@dataclass(frozen=True)
class Tree:
    """Points along all centre lines.

    Attributes:
        position: [N, 3] atlas mm.
        tangent: [N, 3] unit vectors.
        radius, step: [N] mm; `step` is the length that a point represents.
        segment: [N] names.
        side: [N] +1 right, -1 left, 0 midline.
        along: [N] mm from the start of the segment.
        lengths: length of each (segment, side) in mm.
    """

    position: np.ndarray
    tangent: np.ndarray
    radius: np.ndarray
    step: np.ndarray
    segment: np.ndarray
    side: np.ndarray
    along: np.ndarray
    lengths: dict[tuple[str, int], float]


def draw_tree(step_mm: float, rng: np.random.Generator) -> Tree:
    """Draw a patient's tree: every control point is displaced at random, and branchings stay joined."""
    parts: list[tuple[np.ndarray, ...]] = []
    lengths: dict[tuple[str, int], float] = {}
    for side in (1, -1, 0):
        moved: dict[tuple[float, float, float], np.ndarray] = {}
        for segment in (BASILAR,) if side == 0 else SEGMENTS:
            nodes = []
            for point in segment.points:
                if point not in moved:
                    mirrored = np.array(point) * (side or 1, 1, 1)
                    moved[point] = TERMINUS + mirrored + rng.normal(0, WOBBLE_MM, 3)
                nodes.append(moved[point])
            *points, length = _sample(np.array(nodes), segment.radii, step_mm)
            lengths[segment.name, side] = length
            count = len(points[0])
            parts.append((*points, np.full(count, segment.name), np.full(count, side)))
    columns = zip(*parts, strict=True)
    position, tangent, radius, step, along, names, sides = (np.concatenate(column) for column in columns)
    return Tree(position, tangent, radius, step, names, sides, along, lengths)


def _sample(
    nodes: np.ndarray, radii: tuple[float, float], step_mm: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Midpoints of equal pieces of a polyline: position, tangent, radius, step, arc length; and the total length."""
    pieces = np.diff(nodes, axis=0)
    arc = np.concatenate([[0.0], np.cumsum(np.linalg.norm(pieces, axis=1))])
    length = float(arc[-1])
    count = max(1, round(length / step_mm))
    along = (np.arange(count) + 0.5) * length / count
    position = np.stack([np.interp(along, arc, nodes[:, axis]) for axis in range(3)], axis=1)
    piece = np.searchsorted(arc, along, side="right") - 1
    tangent = (pieces / np.linalg.norm(pieces, axis=1, keepdims=True))[piece]
    return position, tangent, np.interp(along, [0, length], radii), np.full(count, length / count), along, length


@dataclass(frozen=True)
class OccludedTree:
    """A tree, how far beyond the occlusion each point is, and what CTA shows of it.

    Attributes:
        beyond: [N] mm along the tree, negative upstream on the trunk, NaN if the occlusion does not affect the point.
        clot: [N] bool.
        contrast: [N] filling, 0–1.
        lumen: [N] factor on the radius.
    """

    tree: Tree
    beyond: np.ndarray
    clot: np.ndarray
    contrast: np.ndarray
    lumen: np.ndarray


def occlude(tree: Tree, lesion: Lesion, collateral: float, rng: np.random.Generator) -> OccludedTree:
    """Occlude the tree: the lumen tapers towards the clot, which has no contrast, and collaterals fill the rest."""
    side = 1 if lesion.side == "right" else -1
    host, mean = HOSTS[lesion.site]
    fraction = float(np.clip(rng.normal(mean, 0.08), 0.15, 0.95))
    start = {host: -fraction * tree.lengths[host, side]}
    for name, parent in PARENT.items():
        if parent in start:
            start[name] = start[parent] + tree.lengths[parent, side]
    name = host
    while (parent := PARENT[name]) is not None:
        start[parent] = start[name] - tree.lengths[parent, side]
        name = parent
    beyond = np.full(len(tree.radius), np.nan)
    for name, offset in start.items():
        here = (tree.segment == name) & (tree.side == side)
        beyond[here] = offset + tree.along[here]
    at_host, after = (tree.segment == host) & (tree.side == side), beyond >= 0
    clot = after & (beyond < lesion.clot_mm) & np.isin(tree.segment, TRUNK)
    taper_mm = taper_length(lesion.z_cta)
    contrast = np.where(clot, 0.0, np.where(after, collateral, 1.0))
    taper = np.minimum(1, -beyond / taper_mm)
    lumen = np.where(at_host, np.where(after, 0.8, taper), np.where(after, 0.75 + 0.25 * collateral, 1.0))
    return OccludedTree(tree, beyond, clot, contrast, lumen)


def taper_length(z_cta: float) -> float:
    """Over how many mm before the clot the lumen tapers, within the occluded segment."""
    return float(8 * np.exp(0.4 * z_cta))


def collateral_filling(z_cta: float) -> float:
    """Share of the lumen's contrast that reaches the vessels beyond the clot, 0–1."""
    return float(expit(-0.4 + 1.5 * z_cta))
