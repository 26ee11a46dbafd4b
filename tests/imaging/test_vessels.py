"""Vessels: the filter against SimpleITK's, synthetic CTA with known vessels, scans without contrast."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from skimage.morphology import skeletonize
from support.heads import rigid

from rlvo.config.grid import Grid
from rlvo.imaging.alignment.atlas import built_in_atlas
from rlvo.imaging.alignment.registration import RegisteredScan
from rlvo.imaging.resampling import resample_to_grid
from rlvo.imaging.vessels import find_vessels, too_coarse, vesselness
from rlvo.imaging.volume import Volume
from rlvo.synthetic.phantom import PhantomVolumes, make_phantom
from rlvo.synthetic.vessels import Lesion

GRID = Grid(shape=(156, 190, 150), spacing=(1, 1, 1), origin=(-78, -112, -66))


def shapes(spacing: tuple[float, float, float]) -> np.ndarray:
    """A tube along x, a plate and a ball, 300 HU in 40, with noise; [x, y, z]."""
    x, y, z = np.meshgrid(*(step * np.arange(n) for step, n in zip(spacing, (40, 44, 36), strict=True)), indexing="ij")
    hu = np.full(x.shape, 40.0)
    hu[(y - 8) ** 2 + (z - 12) ** 2 < 1.5**2] = 300
    hu[np.abs(y - 18) < 1.0] = 300
    hu[(x - 15) ** 2 + (y - 27) ** 2 + (z - 12) ** 2 < 2.0**2] = 300
    return (hu + np.random.default_rng(0).normal(0, 5, hu.shape)).astype(np.float32)


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 0.8), (0.9, 0.7, 0.8)])
def test_vesselness_is_that_of_simple_itk(spacing: tuple[float, float, float]) -> None:
    hu = shapes(spacing)
    image = sitk.GetImageFromArray(hu.T)
    image.SetSpacing(spacing)
    expected = np.zeros(hu.shape, dtype=np.float32)
    for scale in (0.8, 1.6):
        smooth = sitk.SmoothingRecursiveGaussian(image, scale) * scale**2
        measure = sitk.ObjectnessMeasure(smooth, alpha=0.5, beta=0.5, gamma=25.0, scaleObjectnessMeasure=False)
        expected = np.maximum(expected, sitk.GetArrayFromImage(measure).T)
    found = vesselness(hu, spacing, np.ones(hu.shape, dtype=bool))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    part = hu > 150
    np.testing.assert_array_equal(vesselness(hu, spacing, part, threads=1), np.where(part, found, 0))


def test_a_tube_is_graded_above_a_plate_and_a_ball() -> None:
    hu = shapes((0.8, 0.8, 0.8))
    grades = vesselness(hu, (0.8, 0.8, 0.8), np.ones(hu.shape, dtype=bool))
    tube, plate, ball = grades[10:30, 10, 15], grades[10:30, 22:24, 15], grades[19, 34, 15]
    assert tube.min() > 0.5
    assert plate.max() < 0.3
    assert ball < 0.3


def test_thick_slices_are_too_coarse() -> None:
    array = np.zeros((4, 4, 4), dtype=np.float32)
    assert not too_coarse(Volume(array, np.diag([0.5, 0.5, 1.25, 1])))
    assert too_coarse(Volume(array, np.diag([0.5, 0.5, 5, 1])))


@pytest.fixture(scope="module")
def phantom() -> PhantomVolumes:
    return make_phantom(Lesion("left", "M1", -1.0, 0.0), GRID, np.random.default_rng(4), full_images=False)


def turned(array: np.ndarray) -> RegisteredScan:
    """A volume on `GRID` as a scan that lies elsewhere, and its transform."""
    turn = rigid(1, [0.1, -0.2, 0.3], [12, -30, 200])
    return RegisteredScan(Volume(np.asfortranarray(array, dtype=np.float32), turn @ GRID.affine), turn)


@pytest.mark.slow
def test_known_vessels_are_found(phantom: PhantomVolumes) -> None:
    vessels = find_vessels(turned(phantom.cta), turned(phantom.ncct), built_in_atlas(), threads=2)
    assert vessels.contrast
    assert set(np.unique(vessels.mask.array)) == {0, 1}
    assert vessels.figures["vessel_span"] > 80
    found = resample_to_grid(vessels.mask, GRID, np.eye(4)) > 0.5
    brain = built_in_atlas().brain[20:176, 22:212, 6:156]  # the atlas frame at GRID's voxels
    truth = (phantom.vessels > 0) & brain
    # The truth marks every voxel that is 3 % filled: it is some 1 mm thicker than the vessels.
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.4
    centre = skeletonize(truth)
    assert (ndimage.distance_transform_edt(~found)[centre] <= 1.5).mean() > 0.75
    assert (ndimage.distance_transform_edt(~truth)[found] <= 1.0).mean() > 0.98


@pytest.mark.slow
def test_noise_and_calcifications_without_contrast_are_no_vessels(phantom: PhantomVolumes) -> None:
    rng = np.random.default_rng(0)
    hu = phantom.ncct + rng.normal(0, 40, GRID.shape)
    hu[76:82, 80:86, 70:75] = 400  # pineal gland
    hu[[60, 95], 75:90, 88:91] = 300  # choroid plexus
    vessels = find_vessels(turned(hu), None, built_in_atlas())
    assert not vessels.contrast
    assert not vessels.mask.array.any()
    assert vessels.figures["vessel_span"] < 30
