"""Registration: matrices to ITK and back, known displacements undone, and a real head against a real CT template."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.heads import displaced_atlas, rigid

from rlvo.errors import RlvoError
from rlvo.imaging.alignment.atlas import built_in_atlas
from rlvo.imaging.alignment.pyramid import UNIT_MM, atlas_pyramid, head_pyramid
from rlvo.imaging.alignment.quality import assess
from rlvo.imaging.alignment.registration import (
    RegisteredScan,
    coarse_candidates,
    get_matrix,
    make_kicks,
    mean_distance,
    optimise,
    register_cta,
    register_ncct,
    set_matrix,
)
from rlvo.imaging.alignment.template import load_atlas
from rlvo.imaging.reading.source import read_volume
from rlvo.imaging.volume import Volume


def brain_points() -> np.ndarray:
    atlas = built_in_atlas()
    voxels = np.argwhere(atlas.brain[::10, ::10, ::10]) * 10
    return voxels @ atlas.head.affine[:3, :3].T + atlas.head.affine[:3, 3]


def test_matrices_go_to_itk_and_back() -> None:
    matrix = rigid(0.4, [0.6, 0, 0.8], [10, -20, 30])
    centre = np.array([0.2, 0.5, -0.1])
    turn = sitk.Euler3DTransform()
    set_matrix(turn, matrix, centre)
    np.testing.assert_allclose(get_matrix(turn), matrix, atol=1e-9)
    matrix[:3, :3] = matrix[:3, :3] @ np.diag([0.9, 1.1, 1.0])
    affine = sitk.AffineTransform(3)
    set_matrix(affine, matrix, centre)
    np.testing.assert_allclose(get_matrix(affine), matrix, atol=1e-9)
    point = np.array([12.0, -30, 44])  # RAS mm
    lps = np.array(affine.TransformPoint((point * [-1, -1, 1] / UNIT_MM).tolist())) * UNIT_MM
    np.testing.assert_allclose(lps * [-1, -1, 1], (matrix @ [*point, 1])[:3], atol=1e-9)


def test_kicks_turn_and_shift_about_the_centre() -> None:
    centre = np.array([3.0, -18, 8])
    moved = [np.linalg.norm((kick @ [*centre, 1])[:3] - centre) for kick in make_kicks(centre, 0.5)]
    np.testing.assert_allclose(sorted(moved), [0] * 6 + [4] * 6, atol=1e-9)


def test_coarse_search_comes_near() -> None:
    displacement = rigid(0.35, [0.6, 0, 0.8], [20, -10, 25])
    candidates = coarse_candidates(atlas_pyramid(built_in_atlas()), head_pyramid(displaced_atlas(displacement)))
    assert mean_distance(candidates[0], displacement, brain_points()) < 20


def test_no_head_is_refused() -> None:
    air = Volume(np.full((60, 60, 60), -1000, dtype=np.float32), np.diag([3.0, 3, 3, 1]))
    with pytest.raises(RlvoError, match="no head"):
        register_cta(air, built_in_atlas())


def test_optimisations_side_by_side_give_the_same_bits() -> None:
    fixed, moving = atlas_pyramid(built_in_atlas()), head_pyramid(displaced_atlas(rigid(0.2, [1, 0, 0], [5, 5, 5])))
    starts = [rigid(angle, [1, 0, 0], [5, 5, 5]) for angle in (0.0, 0.1, 0.2, 0.3)]
    alone = [optimise(fixed, moving, 8.0, "affine", start) for start in starts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda start: optimise(fixed, moving, 8.0, "affine", start), starts))
    for one, other in zip(alone, together, strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.transform, other.transform)


@pytest.mark.slow
def test_known_displacements_are_undone() -> None:
    to_cta = rigid(0.3, [0, 0, 1], [10, 0, -5]) @ np.diag([0.95, 0.92, 0.9, 1])
    to_ncct = rigid(0.5, [0.8, 0, -0.6], [25, 10, -30]) @ to_cta
    cta = RegisteredScan(displaced_atlas(to_cta), to_cta)
    found = register_ncct(displaced_atlas(to_ncct), cta, built_in_atlas())
    assert mean_distance(found, to_ncct, brain_points()) < 1.0


@pytest.fixture(scope="module")
def head(real: Path) -> tuple[Volume, np.ndarray]:
    """The real head and its registration."""
    scan = read_volume(real / "head_ct_tilted_dicom")
    return scan, register_cta(scan, built_in_atlas())


@pytest.mark.slow
def test_real_head_agrees_with_registration_to_a_ct_template(real: Path, head: tuple[Volume, np.ndarray]) -> None:
    scan, found = head
    template = load_atlas(real / "mni_ct_template" / "scct_hu_2mm.nii.gz")
    assert mean_distance(found, register_cta(scan, template), brain_points()) < 4.0
    assessment = assess(scan, found, built_in_atlas())
    assert assessment.doubtful == assessment.hopeless == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("angle", "axis", "shift"),
    [(-0.6, [1, 0, 0], [0, 40, 0]), (0.6, [0, 0, 1], [0, 0, -40])],
)
def test_real_head_is_found_wherever_it_lies(
    head: tuple[Volume, np.ndarray], angle: float, axis: list[float], shift: list[float]
) -> None:
    scan, found = head
    displacement = rigid(angle, axis, shift)
    again = register_cta(Volume(scan.array, displacement @ scan.affine), built_in_atlas())
    assert mean_distance(again, displacement @ found, brain_points()) < 5.0
