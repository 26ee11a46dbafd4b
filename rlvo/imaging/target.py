"""What a cohort's volumes are prepared to: the grid, and the atlas they are registered to."""

from __future__ import annotations

from pathlib import Path

from rlvo.config.base import Frozen
from rlvo.config.grid import GridField


class Target(Frozen):
    """Grid in MNI space, and a CT template in MNI space to register to (None: the atlas that comes with rlvo)."""

    grid: GridField
    atlas: Path | None = None
