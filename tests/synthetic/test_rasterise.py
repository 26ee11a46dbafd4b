"""Splatting and ellipsoids against volumes and moments known in closed form."""

import numpy as np
import pytest

from rlvo.config.grid import Grid
from rlvo.synthetic.rasterise import cross_sections, ellipsoid, grid_axes, splat

GRID = Grid(shape=(20, 22, 24), spacing=(2, 3, 4), origin=(-10, 5, 7))


def test_a_point_keeps_its_volume_place_and_width() -> None:
    point, volumes = np.array([[3.3, 30.9, 44.7]]), np.array([[5.0], [-2.0]])
    fraction = splat(GRID, point, volumes)
    assert fraction.shape == (2, *GRID.shape)
    np.testing.assert_allclose(fraction.sum(axis=(1, 2, 3)) * 24, [5.0, -2.0])
    for axis, (coordinate, spacing) in enumerate(zip(grid_axes(GRID), GRID.spacing, strict=True)):
        weight = fraction[0] / fraction[0].sum()
        mean = float((weight * coordinate).sum())
        assert mean == pytest.approx(point[0, axis], abs=0.05 * spacing)
        spread = np.sqrt(float((weight * (coordinate - mean) ** 2).sum()))
        assert spread == pytest.approx(0.6 * spacing, rel=0.05)


def test_points_outside_leave_no_trace_and_points_across_the_edge_only_their_share() -> None:
    first = np.array(GRID.origin)
    assert splat(GRID, first[None] - 100, np.ones((1, 1))).sum() == 0
    centre = first + np.array([0, 30, 40])
    assert splat(GRID, centre[None], np.ones((1, 1))).sum() * 24 == pytest.approx(0.5 + 0.5 * 0.66, abs=0.02)


def test_cross_sections_fill_a_thick_vessel_on_a_fine_grid() -> None:
    grid = Grid(shape=(24, 24, 60), spacing=(0.5, 0.5, 0.5), origin=(-6, -6, -15))
    z = np.arange(-14, 14, 0.125)
    position = np.column_stack([0 * z, 0 * z, z])
    tangent, radius = np.tile([0.0, 0.0, 1.0], (len(z), 1)), np.full(len(z), 2.0)
    points, copies = cross_sections(position, tangent, radius, 0.5)
    offset = np.linalg.norm(points[:, :2], axis=1)
    assert offset.max() <= 2
    assert np.mean(offset**2) == pytest.approx(2.0, rel=0.05)  # r²/2 over a disc
    volume = np.full((1, len(points)), np.pi * 4 * 0.125 / copies)
    assert splat(grid, points, volume)[0, 12, 12, 30] == pytest.approx(1, abs=0.1)


def test_a_coarse_grid_has_the_centre_line_alone() -> None:
    position, tangent = np.zeros((3, 3)), np.tile([1.0, 0.0, 0.0], (3, 1))
    points, copies = cross_sections(position, tangent, np.full(3, 2.0), 4.0)
    assert copies == 1
    np.testing.assert_array_equal(points, position)


def test_ellipsoid_volume() -> None:
    grid = Grid(shape=(40, 50, 60), spacing=(1, 1, 1), origin=(-20, -25, -30))
    fraction = ellipsoid(grid, grid_axes(grid), (1, 2, 3), (10, 14, 18))
    assert fraction.sum() == pytest.approx(4 / 3 * np.pi * 10 * 14 * 18, rel=0.01)
    assert fraction[21, 27, 33] == 1
    assert fraction[0, 0, 0] == 0
