"""What can be said of a volume before its registration: can it be a head CT in HU, and if not, what is wrong?"""

from __future__ import annotations

import math

import numpy as np

from rlvo.errors import RlvoError
from rlvo.imaging.volume import Volume

MIN_EXTENT_MM = 60.0
SAMPLES = 2_000_000
BIN_HU = 20.0
MIN_SHARE = 0.002
"""Least share of the commonest air, and of the commonest soft tissue, among a CT's voxels (in a bin of 20 HU)."""
AIR_RANGE, AIR_HU = (-1200.0, -600.0), (-1060.0, -920.0)
"""The commonest value among those that may be air must be air's."""
TISSUE_RANGE, TISSUE_HU = (-60.0, 300.0), (-20.0, 100.0)
"""The commonest value above fat must be brain's (0–80 HU) to within a bin."""

MISTAKES: tuple[tuple[str, str, float, float], ...] = (
    ("look like stored values without the rescale intercept (about 1024 too high)", "Apply it", 1, -1024),
    ("look as if the rescale intercept was applied twice (about 1024 too low)", "Apply it once", 1, 1024),
    ("are ten times HU", "Divide by 10", 0.1, 0),
    ("are a tenth of HU", "Multiply by 10", 10, 0),
)
"""How values become wrong on the way, the mending, and its slope and intercept."""
EXPORT = "Export the original CT in HU, with the air around the head and the bone in it"


def check_head_ct(volume: Volume, where: str | None) -> None:
    """Raise RlvoError where a volume is too small for a head or is not in HU, saying what is likely wrong with it."""
    extent = volume.spacing * volume.array.shape
    if extent.min() < MIN_EXTENT_MM:
        text = "×".join(f"{length:.0f}" for length in extent)
        raise RlvoError(f"too small for a head ({text} mm)", where=where, fix="Give the whole head CT")
    step = max(1, math.ceil((volume.array.size / SAMPLES) ** (1 / 3)))
    values = volume.array[::step, ::step, ::step].ravel()
    lacking = _lacking(values)
    if lacking:
        what, mending = _likely_mistake(values)
        raise RlvoError(f"not a head CT in HU: {lacking}{what and f'; {what}'}", where=where, fix=mending)


def _lacking(values: np.ndarray) -> str:
    """What values in HU would have and these have not; empty where nothing is lacking."""
    for name, within, expected in (
        ("air near −1000", AIR_RANGE, AIR_HU),
        ("soft tissue at 0–80", TISSUE_RANGE, TISSUE_HU),
    ):
        counts, edges = np.histogram(values, bins=round((within[1] - within[0]) / BIN_HU), range=within)
        commonest = int(counts.argmax())
        if counts[commonest] < MIN_SHARE * values.size:
            return f"no {name}"
        if not expected[0] <= edges[commonest] + BIN_HU / 2 <= expected[1]:
            return f"no {name}, but near {edges[commonest] + BIN_HU / 2:.0f}".replace("-", "−")
    return ""


def _likely_mistake(values: np.ndarray) -> tuple[str, str]:
    """What probably happened to values that are not in HU (empty where there is no telling), and how to mend it."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return f"every voxel is {low:g}", EXPORT
    if low >= 0 and high <= 255:
        scale = "0–1" if high <= 1 else "0–255"
        return f"its values are grey values of {scale}", EXPORT
    if high > 32767 and not _lacking(np.where(values > 32767, values - 65536, values)):
        return "its negative values became large positive ones", f"Read it as signed 16-bit integers, or e{EXPORT[1:]}"
    for what, mending, slope, intercept in MISTAKES:
        if not _lacking(values * np.float32(slope) + np.float32(intercept)):
            return f"its values {what}", f"{mending}, or e{EXPORT[1:]}"
    return "", EXPORT
