"""A CT template in MNI space as the registration target, in place of the head that comes with rlvo."""

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from rlvo.errors import RlvoError
from rlvo.imaging.alignment.atlas import ATLAS_KEY, Atlas, built_in_atlas, read_arrays, write_arrays
from rlvo.imaging.alignment.quality import assess
from rlvo.imaging.reading.source import check_exists, read_volume
from rlvo.imaging.resampling import resample
from rlvo.imaging.volume import AIR, Volume

HU_RANGE = (-1024.0, 3071.0)
"""Values a template is clipped to: a CT's twelve bits."""


@lru_cache(maxsize=2)
def load_atlas(template: Path | None = None) -> Atlas:
    """Return the atlas that comes with rlvo, or one with a template's head and the built-in brain and region.

    A template is a head CT in HU, NIfTI, compared where it has voxels; or a file of `write_template`: same key.
    Raises RlvoError if it cannot be read or does not lie where the built-in head does.
    """
    built_in = built_in_atlas()
    if template is None:
        return built_in
    where = check_exists(template)
    hu, region = (_read_kept if template.suffix == ".npz" else _sample_template)(template, built_in, where)
    content = hashlib.sha256(hu.tobytes() + np.packbits(region).tobytes()).hexdigest()
    head = Volume(np.asfortranarray(hu, dtype=np.float32), built_in.head.affine)
    return Atlas(head, built_in.brain, region, f"{ATLAS_KEY}+{content[:16]}")


def atlas_key(template: Path | None = None) -> str:
    """Return `Atlas.key` without building the atlas that comes with rlvo. Raises as `load_atlas` does."""
    return ATLAS_KEY if template is None else load_atlas(template).key


def write_template(atlas: Atlas, path: Path) -> None:
    """Keep a template's atlas as one `.npz` that `load_atlas` reads; it travels with a registered model."""
    write_arrays(path, {"head": atlas.head.array.astype(np.int16), "region": atlas.region})


def _read_kept(path: Path, built_in: Atlas, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Read head (int16 HU) and region from a file of `write_template`."""
    arrays = read_arrays(path, "head", "region")
    if arrays is None or any(array.shape != built_in.head.array.shape for array in arrays.values()):
        what = "the file is damaged, or not a template kept by rlvo"
        raise RlvoError(what, where=where, fix="Give the CT template itself")
    return arrays["head"].astype(np.int16, order="C"), arrays["region"].astype(bool, order="C")


def _sample_template(path: Path, built_in: Atlas, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Sample head (int16 HU) and region of a CT template on the built-in frame, which it has to fit as it lies."""
    template = read_volume(path)
    if hopeless := assess(template, np.eye(4), built_in).hopeless:
        fix = "Give a head CT template in HU, with skull, in MNI space"
        raise RlvoError(f"not a head CT in MNI space: {', '.join(hopeless)}", where=where, fix=fix)
    shape = built_in.head.array.shape
    hu = resample(template, built_in.head.affine, shape, np.eye(4), outside=float("nan")).array
    covered = np.isfinite(hu)
    rounded = np.rint(np.clip(np.where(covered, hu, AIR), *HU_RANGE))
    return rounded.astype(np.int16, order="C"), built_in.region & covered
