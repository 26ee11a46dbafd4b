"""Does a given vessel mask belong to the scan it comes with? Its array, its place, and what the scan shows there."""

import itertools

import numpy as np
from scipy import ndimage

from rlvo.errors import RlvoError
from rlvo.imaging.alignment.registration import RegisteredScan
from rlvo.imaging.volume import AIR, Volume

MAX_SHARE = 0.3
"""A mask that fills more of its volume is not a vessel mask (but an intensity image, for example)."""
SAME_PLACE = 0.5
"""Corners of one array that are further apart than this share of the smallest voxel edge lie at different places.
Headers are rounded: an edge of 0.488 for 0.48828 mm moves the last of 512 voxels by 0.14 mm."""
SAMPLES = 20_000
OUTSIDE_HU, SOFT_HU, DENSE_HU = -300.0, (0.0, 100.0), 700.0
"""Below the first is air; above the last is bone, not contrast."""
LEAST_INSIDE = 0.5
LEAST_RANK = 0.60
"""Mean rank (0–1) of a mask's HU among those of soft tissue. Synthetic masks of 2 and 4 mm have 0.84 to 0.94, those a
voxel too thick 0.61 to 0.69; 10 mm or more beside the vessels, or turned, they have 0.36 to 0.65, and with the sides
swapped 0.55 to 0.86."""


def check_mask(mask: Volume, where: str, scan: Volume, scan_name: str) -> None:
    """Raise RlvoError if `mask` (0/1) is no vessel mask, or has the array of the scan it follows, but not its place."""
    if (share := float(mask.array.mean())) > MAX_SHARE:
        what = f"the vessel mask fills {share:.0%} of its volume"
        raise RlvoError(what, where=where, fix="Give a mask that is 1 in vessels and 0 elsewhere")
    same_array = sorted(mask.array.shape) == sorted(scan.array.shape)
    if same_array and not _at_same_place(mask, scan):
        what = (
            f"the vessel mask has the {scan_name}'s array, but another affine: "
            f"{_format_affine(mask)} in RAS+, not the {scan_name}'s {_format_affine(scan)}"
        )
        raise RlvoError(what, where=where, fix=f"Write the mask with the {scan_name}'s header")


def doubt_mask(mask: Volume, followed: RegisteredScan, scan_name: str, *, in_atlas_space: bool) -> list[str]:
    """Doubt a mask (0/1, not empty) that lies mostly outside the head, or in a CTA mostly beside what contrast fills.

    `in_atlas_space`: the mask lies there; otherwise where the scan does.
    """
    voxels = np.argwhere(mask.array > 0)
    voxels = voxels[:: 1 + len(voxels) // SAMPLES]
    to_scan = np.linalg.inv(followed.scan.affine) @ (followed.transform if in_atlas_space else np.eye(4)) @ mask.affine
    places = voxels @ to_scan[:3, :3].T + to_scan[:3, 3]
    hu = ndimage.map_coordinates(followed.scan.array, places.T, order=1, cval=AIR)
    if (inside := (hu > OUTSIDE_HU).mean()) < LEAST_INSIDE:
        return [f"{1 - inside:.0%} of it is outside the head: does it belong to this {scan_name}?"]
    step = max(1, round((followed.scan.array.size / SAMPLES) ** (1 / 3) / 3))
    every = followed.scan.array[::step, ::step, ::step]
    soft = np.sort(every[(every > SOFT_HU[0]) & (every < SOFT_HU[1])])
    if scan_name != "CTA" or not len(soft):
        return []
    ranks = np.where(hu > DENSE_HU, 0, np.searchsorted(soft, hu) / len(soft))
    if ranks.mean() < LEAST_RANK:
        return ["most of it is not where the CTA shows contrast: does it belong to this CTA?"]
    return []


def _at_same_place(mask: Volume, scan: Volume) -> bool:
    if mask.array.shape != scan.array.shape:
        return False
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in scan.array.shape))])
    apart = np.linalg.norm((corners @ (mask.affine - scan.affine).T)[:, :3], axis=1).max()
    return bool(apart <= SAME_PLACE * scan.spacing.min())


def _format_affine(volume: Volume) -> str:
    """E.g. `[4 0 0 -62; 0 4 0 -35; 0 0 4 -40]`."""
    return f"[{'; '.join(' '.join(f'{value:.4g}' for value in row + 0.0) for row in volume.affine[:3])}]"
