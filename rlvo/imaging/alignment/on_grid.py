"""Does a volume that lies on the grid already show a head in HU, lying as the atlas does? Nothing registers it.

The grid may cover a part of the head only, and values may be clipped already, so this asks less than `quality.assess`:
HU inside the brain, and mutual information with the atlas as it lies and turned about the middle of the grid. On grids
of 2 to 8 mm, over part or all of the head, a real head and a CT template had at least 0.36 of the atlas' own
information and fitted at least 1.5 times as well as turned; turned themselves, they fitted at most 0.7 times as well.
Synthetic heads have at least 0.23. They are ellipsoids: only on a grid that cuts them off do they change much when they
are turned (1.2 and 0.7 times; over the whole head 0.94 and 0.9). What is off by 20 mm had at most 0.11 on such a grid,
noise 0.01.
"""

import itertools
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import ndimage

from rlvo.config.grid import Grid
from rlvo.errors import RlvoError
from rlvo.imaging.alignment.atlas import Atlas, sample_mask
from rlvo.imaging.alignment.pyramid import atlas_pyramid, remap_hu
from rlvo.imaging.alignment.quality import (
    BRAIN_MARGIN_MM,
    LIMITS,
    SOFT_HU,
    Assessment,
    Limit,
    judge,
    mutual_information,
)
from rlvo.imaging.plausibility import guess_mistake, is_grey
from rlvo.imaging.target import WINDOWS
from rlvo.imaging.volume import grid_axes

LEVEL_MM = 4.0
"""Voxels are compared at about this distance from each other."""
LEAST_BRAIN = 30
"""With fewer voxels inside the brain, nothing is said about HU."""
BINS = 12
"""Coarse: the atlas shows grey and white matter more clearly than a scan of low dose."""
WINDOW = remap_hu(np.array(WINDOWS["ncct"]))
"""Values are compared as the NCCT is clipped, so that a CTA and a volume that is clipped already are judged alike."""
MOST_UPRIGHT = 99.0
"""`upright` is cut to this; if nothing of the turned atlas fits, it would be infinite."""

GRID_LIMITS = {
    "likeness": Limit((0.20, 9), (0.12, 9), "it hardly resembles the atlas (likeness {:.2f})"),
    "upright": Limit((0.90, 99), (0.75, 99), "it fits the atlas only {:.2f} times as well as when turned"),
    **{name: LIMITS[name] for name in ("soft_tissue", "brain_hu")},
}
"""By figure. `likeness`: mutual information with the atlas, as a share of the atlas' own on this grid. `upright`: how
many times better it fits than in the best of 23 turns by right angles. The others are those of `quality.LIMITS`."""


TURNS = tuple(
    turn
    for axes in itertools.permutations(np.eye(3))
    for signs in itertools.product((1, -1), repeat=3)
    if np.linalg.det(turn := np.array(axes) * np.array(signs)[:, None]) > 0
)
"""The 24 rotations that take axes to axes; the first is none."""


@dataclass(frozen=True, eq=False)
class _Expected:
    """The atlas at the compared voxels of a grid.

    Attributes:
        compared: every so many voxels along each axis: N in all.
        turned: the atlas in each of `TURNS`, 0–1 [24, N].
        information: what it shares with itself, nats.
        brain: whether a voxel is inside the brain, bool [N].
    """

    compared: tuple[slice, ...]
    turned: np.ndarray
    information: float
    brain: np.ndarray


def check_on_grid(hu: np.ndarray, grid: Grid, atlas: Atlas, where: str | None) -> Assessment:
    """Compare a volume on the grid ([x, y, z], HU, clipped or not) with the atlas, without registering it.

    Left and right cannot be told apart: a turned atlas also stands for a mirrored one. Raises RlvoError if the volume
    is not in HU or does not show a head that lies as the atlas does.
    """
    expected = _sample_atlas(grid, atlas)
    values = np.asarray(hu[expected.compared], dtype=np.float32).ravel()
    figures: dict[str, float] = {}
    brain = values[expected.brain]
    if len(brain) >= LEAST_BRAIN:
        figures = _measure_brain(brain)
    doubtful, hopeless = judge(figures, GRID_LIMITS)
    if hopeless or is_grey(hu):
        what, fix = guess_mistake(values, lambda mended: _in_hu(mended[expected.brain]))
        said = "; ".join(filter(None, [", ".join(hopeless), what]))
        raise RlvoError(f"not a head CT in HU: {said}", where=where, fix=fix)

    found = _round(np.clip(remap_hu(values), *WINDOW))
    fits = np.array([mutual_information(turned, found) for turned in expected.turned])
    best = 1 + int(fits[1:].argmax())
    figures["likeness"] = float(fits[0] / expected.information)
    figures["upright"] = float(min(MOST_UPRIGHT, fits[0] / max(fits[best], 1e-6)))
    upright = replace(GRID_LIMITS["upright"], words=f"it fits the atlas {{:.2f}} times as well as {_name(TURNS[best])}")
    doubtful, hopeless = judge(figures, GRID_LIMITS | {"upright": upright})
    if hopeless:
        what = f"the volume lies on the grid, but does not show a head as the atlas lies: {', '.join(hopeless)}"
        fix = "Correct its orientation, or give the scan as it was acquired, and rlvo registers it"
        raise RlvoError(what, where=where, fix=fix)
    return Assessment(figures, doubtful, hopeless)


def _measure_brain(hu: np.ndarray) -> dict[str, float]:
    soft = (hu > SOFT_HU[0]) & (hu < SOFT_HU[1])
    return {"soft_tissue": float(soft.mean()), "brain_hu": float(np.median(hu))}


def _round(values: np.ndarray) -> np.ndarray:
    """Round values 0–1 down to one of `BINS`."""
    return np.asarray(np.floor(values * BINS) / BINS)


def _in_hu(brain: np.ndarray) -> bool:
    return bool(len(brain)) and not judge(_measure_brain(brain), GRID_LIMITS)[1]


def _name(turn: np.ndarray) -> str:
    """Name a turn in words."""
    if not (np.abs(np.diag(turn)) == 1).all():
        return "turned by a right angle"
    found = {"back to front": turn[1, 1] < 0, "upside down": turn[2, 2] < 0}
    return " and ".join(name for name, is_so in found.items() if is_so)


@lru_cache(maxsize=4)
def _sample_atlas(grid: Grid, atlas: Atlas) -> _Expected:
    steps = [max(1, round(LEVEL_MM / spacing)) for spacing in grid.spacing]
    compared = tuple(slice(step // 2, None, step) for step in steps)
    axes = [axis[each] for axis, each in zip(grid_axes(grid), compared, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    middle = np.array([(axis[0] + axis[-1]) / 2 for axis in grid_axes(grid)])
    level = atlas_pyramid(atlas).levels[LEVEL_MM].values
    to_voxels = np.linalg.inv(level.affine)

    def sample(turn: np.ndarray) -> np.ndarray:
        voxels = ((points - middle) @ turn.T + middle) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        return np.asarray(ndimage.map_coordinates(level.array, voxels.T, order=0))  # beyond the atlas: 0, air

    turned = np.array([_round(sample(turn)) for turn in TURNS])
    inner = ndimage.binary_erosion(atlas.brain, iterations=round(BRAIN_MARGIN_MM))
    brain = sample_mask(inner, atlas.head.affine, grid)[compared].ravel()
    itself = mutual_information(turned[0], _round(np.clip(sample(TURNS[0]), *WINDOW)))
    return _Expected(compared, turned, itself, brain)
