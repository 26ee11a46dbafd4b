"""A volume to ITK and back, and allocated for voxels as they are stored."""

import numpy as np
from support.heads import scan

from rlvo.config.grid import Grid
from rlvo.imaging.volume import Volume, allocate_volume, from_sitk, grid_axes, to_sitk


def test_itk_round_trip_keeps_array_and_affine() -> None:
    volume = scan()
    back = from_sitk(to_sitk(volume))
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-12)


def test_voxels_as_stored_end_up_on_reoriented_axes() -> None:
    volume = scan()
    stored = volume.array[::-1].transpose(1, 2, 0)
    to_index = np.zeros((4, 4))  # index of `stored` to index of `array`
    to_index[0, 2], to_index[1, 0], to_index[2, 1], to_index[3, 3] = -1, 1, 1, 1
    to_index[0, 3] = volume.array.shape[0] - 1
    back, as_stored = allocate_volume(stored.shape, volume.affine @ to_index)
    as_stored[...] = stored
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-9)


def test_the_axes_of_a_grid_are_those_of_its_affine() -> None:
    grid = Grid(shape=(3, 4, 5), spacing=(1, 2, 0.5), origin=(-7, 8, 9))
    assert [axis[-1] for axis in grid_axes(grid)] == list((grid.affine @ [2, 3, 4, 1])[:3])
    volume = Volume(np.zeros(grid.shape), grid.affine)
    assert volume.lies_on(grid)
    assert not volume.lies_on(grid.model_copy(update={"origin": (-7, 8, 9.01)}))
