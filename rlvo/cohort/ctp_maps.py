"""Perfusion volumes from Tmax and CBF maps: thresholds times voxel volume, within the brain."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from rlvo.errors import RlvoError

DELAYS_S = (4, 6, 10)
NORMAL_DELAY_S, HYPOPERFUSED_DELAY_S = 4, 6
CORE_FLOW = 0.30
LONGEST_DELAY_S = 100
"""More than any Tmax in seconds: a map above it is in other units."""


def perfusion_volumes(tmax: Path, cbf: Path | None) -> dict[str, float]:
    """`tmax_gt4_ml`, `tmax_gt6_ml`, `tmax_gt10_ml` and, where there is a CBF map, `cbf_lt30_ml`, in mL to 0.1.

    The brain is where either map is above zero, the largest piece with its holes filled. CBF is relative to its median
    over brain with Tmax below 4 s, which stands for normal tissue on both sides; below 30 % of it counts where Tmax is
    above 6 s too, as fluid and white matter have little flow everywhere. Commercial software also drops vessels and
    small islands: its volumes differ, and models trained on the one do not carry over to the other unseen.

    Args:
        tmax: NIfTI map of Tmax [s], [x, y, z].
        cbf: NIfTI map of cerebral blood flow, in any unit, on the same grid.

    Raises:
        RlvoError: a map cannot be read, is no 3-D map, is empty, or not in seconds; maps on different grids.
    """
    delay, voxel_ml = _read(tmax)
    flow = None
    if cbf is not None:
        flow, _ = _read(cbf)
        if flow.shape != delay.shape:
            raise RlvoError(f"{flow.shape} voxels where Tmax has {delay.shape}", where=cbf.name)
    brain = _brain(delay > 0 if flow is None else (delay > 0) | (flow > 0))
    if not brain.any():
        raise RlvoError("is empty", where=tmax.name)
    if delay.max() > LONGEST_DELAY_S:
        raise RlvoError(f"reaches {delay.max():g}, which are no seconds", where=tmax.name)
    volumes = {f"tmax_gt{limit}_ml": _ml((delay > limit) & brain, voxel_ml) for limit in DELAYS_S}
    normal = brain & (delay < NORMAL_DELAY_S)
    if flow is not None and normal.any():
        core = (delay > HYPOPERFUSED_DELAY_S) & brain & (flow < CORE_FLOW * np.median(flow[normal]))
        volumes["cbf_lt30_ml"] = _ml(core, voxel_ml)
    return volumes


def _read(path: Path) -> tuple[np.ndarray, float]:
    """A 3-D map with zeros for what is not finite, and its voxels' volume [mL]."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image = nibabel.load(path)
        values = np.asarray(image.dataobj, dtype=np.float32).squeeze()
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise RlvoError(f"not a readable NIfTI file ({error})", where=path.name) from None
    if values.ndim != 3:
        raise RlvoError(f"has {values.ndim} dimensions, not 3", where=path.name)
    voxel_ml = float(abs(np.linalg.det(image.affine[:3, :3]))) / 1000
    return np.nan_to_num(values, nan=0, posinf=0, neginf=0), voxel_ml


def _brain(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_fill_holes, label

    pieces, _ = label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return np.asarray(binary_fill_holes(pieces == sizes.argmax())) if sizes.any() else mask


def _ml(mask: np.ndarray, voxel_ml: float) -> float:
    return round(float(mask.sum()) * voxel_ml, 1)
