"""A CT-like head in MNI space, built from the ICBM152 2009a images that nilearn carries; no template file ships.

The images show tissue inside the skull only. Skull, scalp and skull base are added by distance from the brain, in
typical thicknesses and HU: enough for mutual information to find a CT's skull, which brain-only templates are not.
"""

import io
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import nibabel
import numpy as np
from scipy import ndimage

from rlvo.config.grid import ATLAS_FIRST_VOXEL, Grid
from rlvo.files import atomic_write
from rlvo.imaging.volume import AIR, Volume, grid_axes

ATLAS_KEY = "icbm152-2009a-ct-1"
"""Names the recipe below; part of the key of every prepared volume."""

BRAIN_MASK_CENTRE = (0.0, -18.0, 8.0)
BRAIN_MASK_RADII = (58.0, 74.0, 56.0)
"""Ellipsoid, RAS mm, that keeps the brain mask clear of synthetic skulls and of loosely fitting real ones."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """The registration target, 1 mm, MNI space.

    Attributes:
        head: CT-like head, HU.
        brain: bool [x, y, z], inside of the skull.
        region: bool [x, y, z], where images are compared: brain, skull and scalp, without face and neck.
        key: names the recipe, and a template's content.
    """

    head: Volume
    brain: np.ndarray
    region: np.ndarray
    key: str


@lru_cache(maxsize=1)
def built_in_atlas() -> Atlas:
    """Return the atlas that comes with rlvo, from the cache folder if it has been built before (10 s, once)."""
    path = Path(os.environ.get("RLVO_CACHE") or Path.home() / ".cache" / "rlvo") / f"{ATLAS_KEY}.npz"
    arrays = read_arrays(path, "head", "brain", "region")
    if arrays is None:
        arrays = _build_arrays()
        with suppress(OSError):  # a folder that cannot be written only costs time
            write_arrays(path, arrays)
    affine = np.eye(4)
    affine[:3, 3] = ATLAS_FIRST_VOXEL
    return Atlas(Volume(arrays["head"].astype(np.float32), affine), arrays["brain"], arrays["region"], ATLAS_KEY)


def brain_mask(grid: Grid) -> np.ndarray:
    """Return the brain on a grid, bool [x, y, z], eroded by 3 mm and confined to an ellipsoid to exclude all skull."""
    atlas = built_in_atlas()
    scaled = [(x - c) / r for x, c, r in zip(grid_axes(grid), BRAIN_MASK_CENTRE, BRAIN_MASK_RADII, strict=True)]
    eroded = sample_mask(ndimage.binary_erosion(atlas.brain, iterations=3), atlas.head.affine, grid)
    return np.asarray(eroded & (sum(np.ix_(*(axis**2 for axis in scaled))) <= 1))


def head_mask(grid: Grid) -> np.ndarray:
    """Return the head without face and neck on a grid, bool [x, y, z]: brain, skull and scalp."""
    atlas = built_in_atlas()
    return sample_mask(atlas.region, atlas.head.affine, grid)


def sample_mask(mask: np.ndarray, affine: np.ndarray, grid: Grid) -> np.ndarray:
    """Sample a mask on an axis-aligned frame at the grid's voxel centres (nearest neighbour, False outside)."""
    axes = [np.rint((x - affine[i, 3]) / affine[i, i]).astype(int) for i, x in enumerate(grid_axes(grid))]
    x, y, z = ((index >= 0) & (index < size) for index, size in zip(axes, mask.shape, strict=True))
    clipped = [np.clip(index, 0, size - 1) for index, size in zip(axes, mask.shape, strict=True)]
    return np.asarray(mask[np.ix_(*clipped)] & x[:, None, None] & y[:, None] & z)


def _build_arrays() -> dict[str, np.ndarray]:
    """Build head (int16 HU), brain and region on the 1 mm frame of the ICBM152 images."""
    from nilearn.datasets import GM_MNI152_FILE_PATH, MNI152_FILE_PATH, WM_MNI152_FILE_PATH  # loads scikit-learn

    def read(path: str) -> np.ndarray:
        return np.asarray(nibabel.load(path).dataobj, dtype=np.float32)

    grey, white = read(GM_MNI152_FILE_PATH) / 255, read(WM_MNI152_FILE_PATH) / 255
    brain = ndimage.binary_fill_holes(read(MNI152_FILE_PATH) > 0)
    x, y, z = np.ix_(*(first + np.arange(n) for n, first in zip(brain.shape, ATLAS_FIRST_VOXEL, strict=True)))
    outside = ndimage.distance_transform_edt(~brain)
    has_brain_above = np.flip(np.logical_or.accumulate(np.flip(brain, axis=2), axis=2), axis=2)
    below = ~brain & has_brain_above

    # Vault: cerebrospinal fluid and dura, two tables with diploë between them, scalp. Thicker at the low occiput.
    bone_end = 7.5 + 3.0 * ((y < -60) & (z < -10))
    head = np.full(brain.shape, AIR, dtype=np.float32)
    head[outside <= bone_end + 5.5] = 10
    head[outside <= bone_end] = 900
    head[(outside > 3) & (outside <= bone_end - 2)] = 600
    head[outside <= 1] = 10
    # Base: bone partly filled with air cells, then soft tissue; the spinal canal leaves through the foramen magnum.
    head[below & (outside <= 30)] = 0
    head[below & (outside > 1) & (outside <= 9)] = 450
    canal = ((x / 15) ** 2 + ((y + 42) / 17) ** 2 <= 1) & (z < -45)
    head[below & canal] = 30
    head[brain] = (28 * white + 37 * grey + 8 * np.clip(1 - white - grey, 0, 1))[brain]
    head = ndimage.gaussian_filter(head, 1.0)

    face = (y > 25) & (z < -20)
    region = (outside <= 19) & ~(below & (outside > 6)) & ~(face & ~brain)
    return {"head": np.rint(head).astype(np.int16), "brain": brain, "region": region}


def read_arrays(path: Path, *names: str) -> dict[str, np.ndarray] | None:
    """Read arrays of an `.npz`; None if there is no such file or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):
        return None


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as a compressed `.npz`, atomically. Raises OSError."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    atomic_write(path, buffer.getvalue())
