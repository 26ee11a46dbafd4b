"""Checks before registration: can a volume be a head CT in HU, and if not, what is probably wrong with it?"""

import math
from collections.abc import Callable

import numpy as np

from rlvo.errors import RlvoError
from rlvo.imaging.volume import Volume

MIN_EXTENT_MM = 60.0
SAMPLES = 2_000_000
BIN_HU = 20.0
MIN_SHARE = 0.002
"""Least share of a CT's voxels in the fullest bin (of 20 HU) of air, and in that of soft tissue."""
AIR_RANGE, AIR_HU = (-1200.0, -600.0), (-1060.0, -920.0)
"""Among the values that could be air, the most common one must be that of air."""
TISSUE_RANGE, TISSUE_HU = (-60.0, 300.0), (-20.0, 100.0)
"""Among the values above fat, the most common one must be that of brain (0–80 HU), to within a bin."""

MISTAKES: tuple[tuple[str, str, float, float], ...] = (
    ("look like stored values without the rescale intercept (about 1024 too high)", "Apply it", 1, -1024),
    ("look as if the rescale intercept was applied twice (about 1024 too low)", "Apply it once", 1, 1024),
    ("are ten times HU", "Divide by 10", 0.1, 0),
    ("are a tenth of HU", "Multiply by 10", 10, 0),
)
"""What goes wrong with values on the way, how to fix it, and the slope and intercept of the fix."""
WRAPS = (65536, 4096)
"""Numbers of 16 and of 12 bits: read as unsigned, negative ones are so much too high."""
EXPORT = "Export the original CT in HU, with the air around the head and the bone in it"


def check_head_ct(volume: Volume, where: str | None) -> None:
    """Raise RlvoError if a volume is too small for a head or is not in HU, saying what is probably wrong with it."""
    extent = volume.spacing * volume.array.shape
    if extent.min() < MIN_EXTENT_MM:
        text = "×".join(f"{length:.0f}" for length in extent)
        raise RlvoError(f"the volume is too small for a head ({text} mm)", where=where, fix="Give the whole head CT")
    step = max(1, math.ceil((volume.array.size / SAMPLES) ** (1 / 3)))
    values = volume.array[::step, ::step, ::step].ravel()
    if missing := _find_missing(values):
        what, fix = guess_mistake(values, lambda mended: not _find_missing(mended))
        raise RlvoError(f"not a head CT in HU: {missing}{what and f'; {what}'}", where=where, fix=fix)


def _find_missing(values: np.ndarray) -> str:
    """Say what values in HU would include and these do not; empty if nothing is missing."""
    for name, within, expected in (
        ("air near −1000", AIR_RANGE, AIR_HU),
        ("soft tissue at 0–80", TISSUE_RANGE, TISSUE_HU),
    ):
        counts, edges = np.histogram(values, bins=round((within[1] - within[0]) / BIN_HU), range=within)
        most_common = int(counts.argmax())
        if counts[most_common] < MIN_SHARE * values.size:
            return f"no {name}"
        if not expected[0] <= edges[most_common] + BIN_HU / 2 <= expected[1]:
            return f"no {name}, but near {edges[most_common] + BIN_HU / 2:.0f}".replace("-", "−")
    return ""


def is_grey(values: np.ndarray) -> bool:
    """Whether values fill a range of grey values, 0–1 or 0–255."""
    low, high = float(values.min()), float(values.max())
    return low >= 0 and (high <= 1 or 254 < high <= 255)


def guess_mistake(values: np.ndarray, in_hu: Callable[[np.ndarray], bool]) -> tuple[str, str]:
    """Say what probably happened to values that are not in HU (empty if there is no telling), and how to fix it.

    `in_hu` tells whether values of the same shape could be in HU.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return f"every voxel is {low:g}", EXPORT
    if low >= 0 and high <= 255:
        scale = "0–1" if high <= 1 else "0–255"
        return f"its values are grey values ({scale})", EXPORT
    for span in WRAPS:
        if high >= span / 2 and in_hu(np.where(values >= span / 2, values - span, values)):
            what = f"its negative values became large positive ones (wrapped at {span})"
            return what, f"Read it as signed integers, or e{EXPORT[1:]}"
    for what, fix, slope, intercept in MISTAKES:
        if in_hu(values * np.float32(slope) + np.float32(intercept)):
            return f"its values {what}", f"{fix}, or e{EXPORT[1:]}"
    return "", EXPORT
