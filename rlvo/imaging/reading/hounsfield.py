"""Values that no CT can have: outside the scan they become air, elsewhere they are refused.

Scanners fill the corners outside the reconstruction circle with a padding value. The header may name it
(PixelPaddingValue, PS3.3 C.7.5.1.1.2) or not; as unsigned numbers, −2000 reads 63536.
"""

import numpy as np
from scipy import ndimage

from rlvo.errors import RlvoError
from rlvo.imaging.volume import AIR

LOWEST_HU, HIGHEST_HU = -1024.0, 32767.0
"""Lower values are padding, not tissue; higher ones are beyond the extended CT scale, even for metal."""
USUAL_HU = (-950.0, 3071.0)
"""Padding between these could be tissue: it counts as padding only outside the circle. Below, it is air anyway."""
CIRCLE = 0.95
"""Beyond this share of the inscribed circle's squared radius, pixels are outside of it."""
WRAP, WRAPPED_HU, TISSUE_HU = 4096, (1000.0 - 4096, -1500.0), -200.0
WRAPPED_SHARE = 1e-3
"""If more voxels than this lie far below air right beside tissue, 12-bit values have wrapped. Streaks of metal and the
undershoot of sharp kernels are fewer or weaker."""


def clear_impossible(hu: np.ndarray) -> None:
    """Turn one value that no CT can have into air where it fills nothing but corners. Raises RlvoError if it does not.

    `hu` is one slice, either way round.
    """
    impossible = hu > HIGHEST_HU
    if not impossible.any():
        return
    if not is_padding(hu, impossible):
        what = f"its values reach {hu.max():.0f} HU, which no CT has"
        negative = hu.max() < 1 << 16 and "; its negative values became large positive ones (wrapped at 65536)"
        raise RlvoError(what + (negative or ""), fix="Export it again, as signed 16-bit integers in HU")
    hu[impossible] = AIR


def count_wrapped(hu: np.ndarray) -> int:
    """Count pixels of a slice that are bone but for 4096 HU: beside tissue, lower than any air, of many values."""
    low = (hu < WRAPPED_HU[1]) & (hu >= WRAPPED_HU[0])
    if not low.any():
        return 0
    values, counts = np.unique(hu[low], return_counts=True)
    low &= hu != values[counts.argmax()]  # padding
    return int((low & (ndimage.maximum_filter(hu, 3) > TISSUE_HU)).sum())


def check_wrapped(wrapped: int, voxels: int) -> None:
    """Raise RlvoError if so many of a volume's voxels are wrapped (`count_wrapped`) that its bone must be."""
    if wrapped > WRAPPED_SHARE * voxels:
        what = f"its values are wrapped at {WRAP}: dense bone became lower than air"
        raise RlvoError(what, fix="Export it again, with 16 bits instead of 12")


def outside_circle(shape: tuple[int, ...]) -> np.ndarray:
    """Return which pixels of a slice lie outside its inscribed ellipse, bool."""
    x, y = (np.linspace(-1, 1, size) for size in shape)
    return np.asarray(x[:, None] ** 2 + y**2 > CIRCLE)


def is_padding(values: np.ndarray, where: np.ndarray) -> bool:
    """Whether pixels hold one value and lie outside the circle, as padding does."""
    return bool(np.ptp(values[where]) == 0 and outside_circle(values.shape)[where].all())
