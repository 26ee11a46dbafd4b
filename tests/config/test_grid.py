import numpy as np
import pytest

from rlvo.config.grid import ATLAS_FIRST_VOXEL, ATLAS_SHAPE, PRESETS, Grid, crop


def test_the_paper_preset_fills_the_atlas_field_of_view() -> None:
    grid = PRESETS["paper"]
    corners = grid.affine @ np.array([[-0.5, -0.5, -0.5, 1], [*(n - 0.5 for n in grid.shape), 1]]).T
    assert corners[:3, 0] == pytest.approx(np.array(ATLAS_FIRST_VOXEL) - 0.5)
    assert corners[:3, 1] == pytest.approx(np.array(ATLAS_FIRST_VOXEL) - 0.5 + ATLAS_SHAPE)


def test_a_crop_holds_every_voxel_that_reaches_into_the_box_and_no_other() -> None:
    grid = Grid(shape=(10, 6, 4), spacing=(2, 1, 4), origin=(-9, 0, 5))
    part = crop(grid, (-3.5, 1.5, -100), (4.5, 3.4, 100))
    assert part.shape == (5, 2, 4)  # x from −5 (to −3) to 3 (to 5); y 2, 3; z: beyond the grid
    assert part.origin == (-3, 2, 5)
    assert part.spacing == grid.spacing
    assert crop(grid, (-100,) * 3, (100,) * 3) == grid


def test_the_head_is_a_part_of_the_papers_grid_symmetric_about_the_midline() -> None:
    paper, head = PRESETS["paper"], PRESETS["head"]
    assert head.spacing == paper.spacing
    steps = (np.array(head.origin) - paper.origin) / paper.spacing
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
    assert (np.rint(steps) + head.shape <= paper.shape).all()
    assert head.origin[0] + head.spacing[0] * (head.shape[0] - 1) / 2 == pytest.approx(0)  # flips are about it
    assert np.prod(head.shape) < 0.75 * np.prod(paper.shape)
