"""Which way up? A scan's fit to the atlas against its fit to the atlas mirrored front to back, top to bottom, and both.

The two sides of a head look alike, so a mirrored atlas stands for a turned one, too. Left and right cannot be told.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.spatial.transform import Rotation

from rlvo.imaging.pyramid import Pyramid, mirrored_pyramid
from rlvo.imaging.registration import nearest_rotation, optimise

FLIPS = {"front_to_back": (1, -1, 1), "upside_down": (1, 1, -1), "turned_over": (1, -1, -1)}
"""Signs of x, y and z."""
NODS = (-30.0, 0.0, 30.0)
"""Degrees about x: the mirrored atlas starts from these, about the pose that was found and about the header's."""
LARGEST = 9.0
"""Margins end here; where nothing of the mirrored atlas fits, they would be infinite."""


def flip_margins(
    atlas: Pyramid, scan: Pyramid, transform: np.ndarray, *, threads: int | None = None
) -> dict[str, float]:
    """By flip, mutual information of scan and atlas over that of scan and mirrored atlas; 0 where they don't overlap.

    Both after affine registration at 4 mm: after a rigid one a head's outline fits front to back nearly as well.
    """
    found = transform[:3, :3] @ atlas.centre + transform[:3, 3], nearest_rotation(transform[:3, :3])
    nods = [Rotation.from_euler("x", degrees, degrees=True).as_matrix() for degrees in NODS]
    poses = [(centre, turn @ nod) for centre, turn in (found, (scan.centre, np.eye(3))) for nod in nods]

    def mirrored_fit(signs: Sequence[int]) -> float:
        mirrored = mirrored_pyramid(atlas, signs)
        starts = [_placed(mirrored.centre, *pose) for pose in poses]
        rigid = [optimise(mirrored, scan, 8.0, "rigid", start) for start in starts]
        best = max((each for each in rigid if each), key=lambda each: each.information, default=None)
        return _fit(mirrored, scan, best.transform) if best else 0.0

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        upright = pool.submit(_fit, atlas, scan, transform)
        mirrored = pool.map(mirrored_fit, FLIPS.values())
        return {
            flip: min(LARGEST, upright.result() / max(fit, 1e-6)) for flip, fit in zip(FLIPS, mirrored, strict=True)
        }


def _fit(fixed: Pyramid, scan: Pyramid, start: np.ndarray) -> float:
    """Mutual information (nats) after affine registration from `start`; 0 without overlap."""
    found = optimise(fixed, scan, 4.0, "affine", start)
    return found.information if found else 0.0


def _placed(centre: np.ndarray, to: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """The rigid transform that takes `centre` to `to`."""
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = to - rotation @ centre
    return transform
