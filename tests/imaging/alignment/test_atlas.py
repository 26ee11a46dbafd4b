"""The atlas: tissue where it belongs, and a brain mask that no skull falls into."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from support.heads import rigid

from rlvo.config.grid import PRESETS, Grid
from rlvo.imaging.alignment.atlas import brain_mask, built_in_atlas, read_arrays, sample_mask, write_arrays
from rlvo.imaging.volume import grid_axes

INNER_SKULL = np.array([[0, -18, 8], [68, 85, 66]])
"""Centre and radii of synthetic skulls' inside, RAS mm."""


def points(grid: Grid) -> np.ndarray:
    return np.stack(np.meshgrid(*grid_axes(grid), indexing="ij"), axis=-1)


def test_tissues_lie_where_they_should() -> None:
    atlas = built_in_atlas()

    def at(*ras: float) -> float:
        return float(atlas.head.array[tuple(np.rint(np.linalg.inv(atlas.head.affine) @ [*ras, 1])[:3].astype(int))])

    assert 20 < at(25, -20, 30) < 40  # white matter
    assert at(6, -5, 18) < 25  # lateral ventricle
    assert at(73, -20, 20) > 400  # parietal bone
    assert at(0, 0, 110) == -1000  # air above
    assert at(95, 0, 90) == -1000


def test_head_is_nearly_symmetric_and_brain_inside_region() -> None:
    atlas = built_in_atlas()
    assert np.corrcoef(atlas.head.array.ravel()[::7], atlas.head.array[::-1].ravel()[::7])[0, 1] > 0.99
    assert atlas.region[atlas.brain].all()
    bone = ndimage.binary_dilation(atlas.brain, iterations=5) & ~ndimage.binary_dilation(atlas.brain, iterations=3)
    assert np.median(atlas.head.array[bone & atlas.region]) > 400


@pytest.mark.parametrize("name", ["focus", "whole"])
def test_brain_mask_is_clear_of_skull(name: str) -> None:
    grid = PRESETS[name]
    mask = brain_mask(grid)
    assert mask.shape == grid.shape
    assert mask.dtype == bool
    radius = np.sqrt((((points(grid) - INNER_SKULL[0]) / (INNER_SKULL[1] - 5)) ** 2).sum(axis=-1))
    assert radius[mask].max() < 1
    assert mask.sum() * np.prod(grid.spacing) > 400_000  # mm³: most of the brain that the grid holds


def test_sampling_a_mask_on_the_grid() -> None:
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[1, 2, 3] = mask[0, 0, 0] = True
    affine = rigid(0, [0, 0, 1], [10, 20, 30])
    grid = Grid(shape=(8, 8, 8), spacing=(0.5, 0.5, 0.5), origin=(9.9, 20, 30))
    np.testing.assert_allclose(points(grid)[sample_mask(mask, affine, grid)].min(axis=0), [9.9, 20, 30])
    far = Grid(shape=(3, 3, 3), spacing=(1, 1, 1), origin=(-50, 20, 30))
    assert not sample_mask(mask, affine, far).any()


def test_a_damaged_cache_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "atlas.npz"
    assert read_arrays(path, "head") is None
    arrays = {name: np.arange(6).reshape(1, 2, 3) for name in ("head", "brain")}
    write_arrays(path, arrays)
    whole = path.read_bytes()
    assert read_arrays(path, "head", "region") is None
    np.testing.assert_equal(read_arrays(path, *arrays), arrays)
    for content in (b"", b"PK", whole[: len(whole) // 2], b"\0" * 100):
        path.write_bytes(content)
        assert read_arrays(path, "head") is None
