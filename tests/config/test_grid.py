import numpy as np
import pytest

from rlvo.config.grid import ATLAS_FIRST_VOXEL, ATLAS_SHAPE, PRESETS


def test_the_paper_preset_fills_the_atlas_field_of_view() -> None:
    grid = PRESETS["paper"]
    corners = grid.affine @ np.array([[-0.5, -0.5, -0.5, 1], [*(n - 0.5 for n in grid.shape), 1]]).T
    assert corners[:3, 0] == pytest.approx(np.array(ATLAS_FIRST_VOXEL) - 0.5)
    assert corners[:3, 1] == pytest.approx(np.array(ATLAS_FIRST_VOXEL) - 0.5 + ATLAS_SHAPE)
