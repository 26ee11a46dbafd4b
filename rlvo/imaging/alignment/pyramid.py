"""What registration compares: heads on RAS axes, HU remapped to 0–1, at 8, 4 and 2 mm, and where they are valid."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from rlvo.errors import RlvoError
from rlvo.imaging.alignment.atlas import Atlas
from rlvo.imaging.resampling import resample
from rlvo.imaging.volume import AIR, Volume, from_sitk, to_sitk

Made = TypeVar("Made")

FINEST_MM = 2.0
LEVELS = {2.0: 1, 4.0: 2, 8.0: 4}
"""Voxel size in mm and its multiple of the finest."""

HU_KNOTS = (-600.0, -150.0, 0.0, 25.0, 50.0, 100.0, 300.0, 800.0)
VALUE_KNOTS = (0.0, 0.2, 0.35, 0.5, 0.65, 0.75, 0.85, 1.0)
"""HU to 0–1, monotonic, soft tissue stretched: with equal steps the histogram would be mostly bone and air."""

HEAD_HU = -300.0
HEAD_MM = 180.0
"""Whatever is further below the vertex is neck and chest."""
VERTEX_CM2 = 20.0
"""The vertex is the highest level at which the head's cross-section is this large: not a tube, strap or ear plug."""

UNIT_MM = 50.0
"""Length unit of the optimisation. The radius of a head is about one unit, so a step in any parameter (rotation, shear
or shift) moves it about equally far: the optimiser needs no scales."""


@dataclass(frozen=True, eq=False)
class Level:
    """One resolution: values 0–1, and bool [x, y, z] where they are valid. Both on RAS axes."""

    values: Volume
    valid: np.ndarray


@dataclass(frozen=True, eq=False)
class Pyramid:
    """One image at all resolutions.

    Attributes:
        levels: by voxel size in mm.
        images, masks: values and validity as ITK images (LPS), lengths in units of `UNIT_MM`.
        centre: of the valid region, or of the head of a scan to be registered; RAS mm.
    """

    levels: dict[float, Level]
    images: dict[float, sitk.Image]
    masks: dict[float, sitk.Image]
    centre: np.ndarray


def once_per_volume(make: Callable[[Volume], Made]) -> Callable[[Volume], Made]:
    """Keep what is made of a volume as long as the volume itself: registration and quality figures share it."""
    made: WeakKeyDictionary[Volume, Made] = WeakKeyDictionary()

    @wraps(make)
    def remembered(volume: Volume) -> Made:
        if volume not in made:
            made[volume] = make(volume)
        return made[volume]

    return remembered


def remap_hu(hu: np.ndarray) -> np.ndarray:
    """Map HU to 0–1 along the knots, float32."""
    return np.asarray(np.interp(hu, HU_KNOTS, VALUE_KNOTS), dtype=np.float32)


@lru_cache(maxsize=2)
def atlas_pyramid(atlas: Atlas) -> Pyramid:
    """Build the pyramid of the atlas, valid in its region."""
    factor = round(FINEST_MM / atlas.head.spacing[0])
    everywhere = np.ones(atlas.head.array.shape, dtype=bool)
    head = _coarsen(Level(Volume(remap_hu(atlas.head.array), atlas.head.affine), everywhere), factor)
    region = _coarsen(Level(Volume(atlas.region.astype(np.float32), atlas.head.affine), everywhere), factor)
    return _pyramid(Level(head.values, region.values.array > 0.5))


def masked_pyramid(volume: Volume, atlas: Atlas, transform: np.ndarray) -> Pyramid:
    """Build the pyramid of a registered scan in its own space, valid in the atlas region."""
    copy = working_copy(volume)
    mask = Volume(atlas.region.astype(np.float32), atlas.head.affine)
    region = resample(mask, copy.affine, copy.array.shape, np.linalg.inv(transform), outside=0.0).array > 0.5
    return _pyramid(_level(copy, region & np.isfinite(copy.array)))


def mirror_pyramid(pyramid: Pyramid, signs: Sequence[int]) -> Pyramid:
    """Mirror a pyramid about the middle of its array along the axes whose sign is -1."""
    finest = pyramid.levels[FINEST_MM]
    turned = tuple(slice(None, None, sign) for sign in signs)
    values = Volume(np.asfortranarray(finest.values.array[turned]), finest.values.affine)
    return _pyramid(Level(values, finest.valid[turned]))


@once_per_volume
def head_pyramid(volume: Volume) -> Pyramid:
    """Build the pyramid of a scan to be registered: its head, without what is further than `HEAD_MM` below the vertex.

    Raises RlvoError if nothing in the scan is as large as a head.
    """
    copy = working_copy(volume)
    tissue = ndimage.binary_opening(np.nan_to_num(copy.array, nan=AIR) > HEAD_HU, iterations=2)
    labels, count = ndimage.label(tissue)
    sizes = ndimage.sum_labels(tissue, labels, np.arange(1, count + 1))
    head = labels == 1 + np.argmax(sizes) if count else tissue
    levels = np.flatnonzero(head.sum(axis=(0, 1)) * FINEST_MM**2 / 100 > VERTEX_CM2)
    if not len(levels):
        raise RlvoError("the scan shows no head", fix="Give a head CT in HU")
    head[:, :, : max(0, levels[-1] - round(HEAD_MM / FINEST_MM))] = False
    box = tuple(slice(max(0, each.start - 8), each.stop + 8) for each in ndimage.find_objects(head.astype(int))[0])
    corner = np.array([each.start for each in box])
    affine = copy.affine.copy()
    affine[:3, 3] += FINEST_MM * corner
    cropped = Volume(copy.array[box], affine)
    centre = affine[:3, 3] + FINEST_MM * np.argwhere(head[box]).mean(axis=0)
    return _pyramid(_level(cropped, np.isfinite(cropped.array)), centre)


@once_per_volume
def working_copy(volume: Volume) -> Volume:
    """Resample a volume to RAS axes at `FINEST_MM` (means over finer voxels); NaN outside the scan."""
    factors = np.maximum(1, np.floor(FINEST_MM / volume.spacing + 0.25)).astype(int)
    shrunk = from_sitk(sitk.BinShrink(to_sitk(volume), factors.tolist()))
    corners = np.array(list(itertools.product(*((-0.5, n - 0.5) for n in shrunk.array.shape))))
    corners = corners @ shrunk.affine[:3, :3].T + shrunk.affine[:3, 3]
    low, high = corners.min(axis=0), corners.max(axis=0)
    affine = np.diag([FINEST_MM, FINEST_MM, FINEST_MM, 1.0])
    affine[:3, 3] = low + FINEST_MM / 2
    shape = np.maximum(1, np.ceil((high - low) / FINEST_MM - 1e-6)).astype(int)
    return resample(shrunk, affine, shape, np.eye(4), outside=float("nan"))


def _level(volume: Volume, valid: np.ndarray) -> Level:
    return Level(Volume(remap_hu(np.where(valid, volume.array, AIR)), volume.affine), valid)


def _pyramid(finest: Level, centre: np.ndarray | None = None) -> Pyramid:
    levels = {size: _coarsen(finest, factor) for size, factor in LEVELS.items()}
    if centre is None:
        centre = finest.values.affine[:3, 3] + FINEST_MM * np.argwhere(finest.valid).mean(axis=0)
    return Pyramid(
        levels,
        {size: _in_units(level.values) for size, level in levels.items()},
        {size: _in_units(Volume(level.valid.astype(np.uint8), level.values.affine)) for size, level in levels.items()},
        centre,
    )


def _coarsen(level: Level, factor: int) -> Level:
    """Average blocks of factor³ voxels over the valid ones; a block is valid if at least half of it is."""
    if factor == 1:
        return level
    padding = [(0, -n % factor) for n in level.valid.shape]
    weights = np.pad(level.valid, padding).astype(np.float32)
    values = np.pad(level.values.array, padding) * weights
    blocks = [part for n in weights.shape for part in (n // factor, factor)]
    count = weights.reshape(blocks).sum(axis=(1, 3, 5))
    means = values.reshape(blocks).sum(axis=(1, 3, 5)) / np.maximum(count, 1)
    affine = level.values.affine @ np.diag([factor, factor, factor, 1.0])
    affine[:3, 3] += np.diag(level.values.affine)[:3] * (factor - 1) / 2
    return Level(Volume(means, affine), count >= factor**3 / 2)


def _in_units(volume: Volume) -> sitk.Image:
    image = to_sitk(volume)
    image.SetSpacing([length / UNIT_MM for length in image.GetSpacing()])
    image.SetOrigin([length / UNIT_MM for length in image.GetOrigin()])
    return image
