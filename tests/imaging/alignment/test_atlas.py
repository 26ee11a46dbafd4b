"""The atlas: tissue where it belongs, and a brain mask that no skull falls into."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from support.heads import rigid

from rlvo.config.grid import HEAD_BOX, PRESETS, Grid
from rlvo.imaging.alignment.atlas import brain_mask, built_in_atlas, read_arrays, sample_mask, write_arrays
from rlvo.imaging.reading.source import read_volume
from rlvo.imaging.volume import Volume, grid_axes
from rlvo.synthetic.phantom import HEAD_CENTRE, TISSUES, Misregistration

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


SKIN_HU = -300


def corners(volume: Volume, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner of the voxels of a mask, RAS mm; the axes are those of MNI space."""
    sides = [np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    ends = [[side[0] - 0.5 for side in sides], [side[-1] + 0.5 for side in sides]]
    first, last = ((volume.affine @ [*end, 1])[:3] for end in ends)
    return np.minimum(first, last), np.maximum(first, last)


def test_the_box_of_the_head_is_the_atlas_head_with_3_mm_around_it() -> None:
    head = built_in_atlas().head
    lowest, highest = corners(head, head.array > SKIN_HU)
    np.testing.assert_allclose(HEAD_BOX[1], highest + 3)
    np.testing.assert_allclose(HEAD_BOX[0], np.maximum(lowest - 3, head.affine[:3, 3] - 0.5))


def test_the_box_of_the_head_cuts_no_synthetic_head() -> None:
    lowest, highest = np.array(HEAD_BOX)
    _, radii, _ = TISSUES[0]
    rng = np.random.default_rng(0)
    for frame in (Misregistration.draw(rng) for _ in range(1000)):
        reach = np.sqrt(((frame.matrix * radii) ** 2).sum(axis=1))  # of the turned ellipsoid along each axis
        assert (HEAD_CENTRE + frame.shift + reach < highest).all()
        assert (HEAD_CENTRE + frame.shift - reach > lowest).all()


def test_the_box_of_the_head_cuts_no_brain_of_a_real_template(real: Path) -> None:
    template = read_volume(real / "mni_ct_template" / "scct_hu_2mm.nii.gz")
    brain = ndimage.binary_erosion((template.array > 0) & (template.array < 80), iterations=3)
    parts, _ = ndimage.label(brain)
    largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    lowest, highest = corners(template, ndimage.binary_dilation(largest, iterations=3))
    assert (lowest[:2] > HEAD_BOX[0][:2]).all()
    assert (highest < HEAD_BOX[1]).all()


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
