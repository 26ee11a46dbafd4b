"""What a cohort's volumes are prepared to: grid, atlas and intensity windows."""

from pathlib import Path

from rlvo.config.base import Frozen
from rlvo.config.grid import GridField

WINDOWS = {"ncct": (0.0, 100.0), "cta": (0.0, 400.0)}
"""HU to which each scan is clipped (section 2.2.1 of the paper)."""


class Target(Frozen):
    """The grid in MNI space, and the CT template in MNI space to register to (None: rlvo's own atlas)."""

    grid: GridField
    atlas: Path | None = None
