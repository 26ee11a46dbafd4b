"""A CT-like head in MNI space, built from the ICBM152 2009a images that nilearn carries; no template file ships.

The images hold tissue inside the skull only. Skull, scalp and skull base are added by distance from the brain, in
typical thicknesses and HU: enough for mutual information to find a CT's skull, which brain-only templates are not.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from scipy import ndimage

from rlvo.config.grid import ATLAS_FIRST_VOXEL, Grid
from rlvo.errors import RlvoError
from rlvo.files import atomic_write
from rlvo.imaging.resampling import resample
from rlvo.imaging.volume import AIR, Volume

ATLAS_KEY = "icbm152-2009a-ct-1"
"""Names the recipe below; part of the key of every prepared volume."""

BRAIN_MASK_CENTRE = (0.0, -18.0, 8.0)
BRAIN_MASK_RADII = (58.0, 74.0, 56.0)
"""Ellipsoid, RAS mm, that keeps the brain mask clear of synthetic skulls and of loosely fitting real ones."""

HU_RANGE = (-1024.0, 3071.0)
"""Values a template is clipped to: a CT's twelve bits."""


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


@lru_cache(maxsize=2)
def load_atlas(template: Path | None = None) -> Atlas:
    """The atlas that comes with rlvo, or a CT template in MNI space with that one's brain and region.

    The built-in one is taken from the cache folder where it has been built before (10 s once).

    Args:
        template: head CT in HU, NIfTI; or what `write_template` wrote, which gives the same key.

    Raises:
        RlvoError: the template cannot be read or does not lie where the built-in head does.
    """
    if template is not None:
        return _with_template(load_atlas(), template)
    path = _cache_folder() / f"{ATLAS_KEY}.npz"
    arrays = _read_arrays(path)
    if arrays is None:
        arrays = _build()
        _write_cache(path, arrays)
    affine = np.eye(4)
    affine[:3, 3] = ATLAS_FIRST_VOXEL
    return Atlas(Volume(arrays["head"].astype(np.float32), affine), arrays["brain"], arrays["region"], ATLAS_KEY)


def atlas_key(template: Path | None = None) -> str:
    """`Atlas.key` without building the atlas that comes with rlvo. Raises as `load_atlas`."""
    return ATLAS_KEY if template is None else load_atlas(template).key


def write_template(atlas: Atlas, path: Path) -> None:
    """Keep a template's atlas as one `.npz` that `load_atlas` reads; it travels with a registered model."""
    atomic_write(path, _packed({"head": atlas.head.array.astype(np.int16), "region": atlas.region}))


def _with_template(built_in: Atlas, template: Path) -> Atlas:
    """The built-in atlas with the template's head, compared where the template has voxels."""
    from rlvo.imaging.reading import check_exists

    where = check_exists(template)
    hu, region = (_kept if template.suffix == ".npz" else _sampled)(built_in, template, where)
    content = hashlib.sha256(hu.tobytes() + np.packbits(region).tobytes()).hexdigest()
    head = Volume(np.asfortranarray(hu, dtype=np.float32), built_in.head.affine)
    return Atlas(head, built_in.brain, region, f"{ATLAS_KEY}+{content[:16]}")


def _kept(built_in: Atlas, path: Path, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Head (int16 HU) and region that `write_template` wrote."""
    arrays = _read_arrays(path, ("head", "region"))
    if arrays is None or any(array.shape != built_in.head.array.shape for array in arrays.values()):
        raise RlvoError("not a template kept by rlvo, or damaged", where=where, fix="Give the CT template itself")
    return arrays["head"].astype(np.int16, order="C"), arrays["region"].astype(bool, order="C")


def _sampled(built_in: Atlas, path: Path, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Head (int16 HU) and region of a CT template on the built-in frame, to which it has to fit as it lies."""
    from rlvo.imaging.quality import assess  # builds on this module
    from rlvo.imaging.reading import read_volume

    template = read_volume(path)
    if hopeless := assess(template, np.eye(4), built_in).hopeless:
        fix = "Give a head CT template in HU, with skull, in MNI space"
        raise RlvoError(f"no head CT in MNI space: {', '.join(hopeless)}", where=where, fix=fix)
    shape = built_in.head.array.shape
    hu = resample(template, built_in.head.affine, shape, np.eye(4), outside=float("nan")).array
    covered = np.isfinite(hu)
    rounded = np.rint(np.clip(np.where(covered, hu, AIR), *HU_RANGE))
    return rounded.astype(np.int16, order="C"), built_in.region & covered


def brain_mask(grid: Grid) -> np.ndarray:
    """Brain on a grid: bool [x, y, z]. Eroded by 3 mm and confined to an ellipsoid, so that no skull falls in."""
    atlas = load_atlas()
    return sample_mask(ndimage.binary_erosion(atlas.brain, iterations=3), atlas.head.affine, grid) & _ellipsoid(grid)


def sample_mask(mask: np.ndarray, affine: np.ndarray, grid: Grid) -> np.ndarray:
    """A mask on an axis-aligned frame taken at the grid's voxel centres (nearest neighbour, False outside)."""
    axes = []
    for axis, (n, step, first) in enumerate(zip(grid.shape, grid.spacing, grid.origin, strict=True)):
        axes.append(np.rint((first + step * np.arange(n) - affine[axis, 3]) / affine[axis, axis]).astype(int))
    x, y, z = ((index >= 0) & (index < size) for index, size in zip(axes, mask.shape, strict=True))
    clipped = [np.clip(index, 0, size - 1) for index, size in zip(axes, mask.shape, strict=True)]
    return np.asarray(mask[np.ix_(*clipped)] & x[:, None, None] & y[:, None] & z)


def _ellipsoid(grid: Grid) -> np.ndarray:
    terms = [
        (((first + step * np.arange(n)) - centre) / radius) ** 2
        for n, step, first, centre, radius in zip(
            grid.shape, grid.spacing, grid.origin, BRAIN_MASK_CENTRE, BRAIN_MASK_RADII, strict=True
        )
    ]
    return np.asarray(sum(np.ix_(*terms)) <= 1)


def _build() -> dict[str, np.ndarray]:
    """Head (int16 HU), brain and region on the 1 mm frame of the ICBM152 images."""
    import nibabel
    from nilearn.datasets import GM_MNI152_FILE_PATH, MNI152_FILE_PATH, WM_MNI152_FILE_PATH

    def read(path: str) -> np.ndarray:
        return np.asarray(nibabel.load(path).dataobj, dtype=np.float32)

    grey, white = read(GM_MNI152_FILE_PATH) / 255, read(WM_MNI152_FILE_PATH) / 255
    brain = ndimage.binary_fill_holes(read(MNI152_FILE_PATH) > 0)
    x, y, z = np.ix_(*(first + np.arange(n) for n, first in zip(brain.shape, ATLAS_FIRST_VOXEL, strict=True)))
    outside = ndimage.distance_transform_edt(~brain)
    below = ~brain & _has_above(brain)

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


def _has_above(mask: np.ndarray) -> np.ndarray:
    """Voxels that have `mask` somewhere above them in their column."""
    return np.asarray(np.flip(np.logical_or.accumulate(np.flip(mask, axis=2), axis=2), axis=2))


def _cache_folder() -> Path:
    return Path(os.environ.get("RLVO_CACHE") or Path.home() / ".cache" / "rlvo")


def _read_arrays(path: Path, names: Sequence[str] = ("head", "brain", "region")) -> dict[str, np.ndarray] | None:
    """Arrays of an `.npz`; None where there are none or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error):
        return None


def _write_cache(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Keep the atlas for the next process; a folder that cannot be written only costs time."""
    with suppress(OSError):
        atomic_write(path, _packed(arrays))


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
