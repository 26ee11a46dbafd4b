"""Resampling onto the grid, against linear functions and scipy."""

import numpy as np
import pytest
from scipy import ndimage
from support.heads import rigid, scan

from rlvo.config.grid import Grid
from rlvo.imaging.resampling import VESSEL_FRACTION, resample, resample_mask_to_grid, resample_to_grid
from rlvo.imaging.volume import AIR, Volume


def test_fine_grid_samples_the_scan_through_the_transform() -> None:
    volume, grid = scan(), Grid(shape=(12, 11, 10), spacing=(1, 0.9, 1.1), origin=(-5, -4, -6))
    transform = rigid(1, [0.2, -0.1, 0.3], [1.5, -2, 0.7]) @ np.diag([0.95, 1.05, 1, 1])
    to_voxels = np.linalg.inv(volume.affine) @ transform @ grid.affine
    indices = np.indices(grid.shape).reshape(3, -1)
    expected = ndimage.map_coordinates(volume.array, to_voxels[:3, :3] @ indices + to_voxels[:3, 3:], order=1)
    np.testing.assert_allclose(resample_to_grid(volume, grid, transform).reshape(-1), expected, atol=1e-4)


def test_coarse_voxels_are_means() -> None:
    gradient = np.array([1.0, -2.0, 0.5])
    array = np.tensordot(gradient, np.indices((40, 40, 40)), axes=1).astype(np.float32)
    grid = Grid(shape=(5, 4, 3), spacing=(4, 4, 5), origin=(10, 12, 11))
    found = resample_to_grid(Volume(np.asfortranarray(array), np.eye(4)), grid, np.eye(4))
    points = np.moveaxis(np.indices(grid.shape), 0, -1) * np.array(grid.spacing) + grid.origin
    np.testing.assert_allclose(found, points @ gradient, atol=1e-3)
    spike = np.zeros((40, 40, 40), dtype=np.float32, order="F")
    spike[20, 20, 20] = 64
    found = resample_to_grid(
        Volume(spike, np.eye(4)), Grid(shape=(3, 3, 3), spacing=(4, 4, 4), origin=(16, 16, 16)), np.eye(4)
    )
    assert found.sum() == pytest.approx(1.0, rel=1e-5)


def test_outside_the_scan_is_air() -> None:
    grid = Grid(shape=(4, 4, 4), spacing=(1, 1, 1), origin=(500, 0, 0))
    assert (resample_to_grid(scan(), grid, np.eye(4)) == AIR).all()
    assert np.isnan(resample(scan(), grid.affine, grid.shape, np.eye(4), outside=float("nan")).array).all()


def test_masks_stay_binary_and_thin_vessels_survive_coarse_grids() -> None:
    mask = np.zeros((48, 48, 48), dtype=np.float32, order="F")
    mask[:, 22:24, 22:24] = 1
    volume = Volume(mask, np.eye(4))
    fine = resample_mask_to_grid(volume, Grid(shape=(40, 40, 40), spacing=(1, 1, 1), origin=(4, 4, 4)), np.eye(4))
    np.testing.assert_array_equal(fine, mask[4:44, 4:44, 4:44])
    assert fine.dtype == np.uint8
    grid = Grid(shape=(10, 10, 10), spacing=(4, 4, 4), origin=(5.5, 5.5, 5.5))
    coarse = resample_mask_to_grid(volume, grid, np.eye(4))
    share = mask[4:44, 4:44, 4:44].reshape(10, 4, 10, 4, 10, 4).mean(axis=(1, 3, 5))
    np.testing.assert_array_equal(coarse, share >= VESSEL_FRACTION)
    assert coarse.any(axis=(1, 2)).all()
