"""Figures of a registration and their limits, on the atlas itself and on what must fail."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from sklearn.metrics import mutual_info_score

from rlvo.errors import RlvoError
from rlvo.imaging.atlas import load_atlas
from rlvo.imaging.plausibility import check_head_ct, has_contrast
from rlvo.imaging.quality import LIMITS, _mutual_information, assess
from rlvo.imaging.volume import Volume


def test_mutual_information_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(5000)
    b = np.clip(a + 0.2 * rng.normal(size=5000), 0, 0.999)
    expected = mutual_info_score((a * 32).astype(int), (b * 32).astype(int))
    assert _mutual_information(a, b) == pytest.approx(expected, rel=1e-9)


def test_the_atlas_fits_itself() -> None:
    atlas = load_atlas()
    assessment = assess(atlas.head, np.eye(4), atlas)
    assert set(assessment.figures) == set(LIMITS)
    assert assessment.doubtful == assessment.hopeless == ()
    assert assessment.figures["correlation"] > 0.99
    assert assessment.figures["coverage"] == 1
    assert assessment.figures["rotation"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (np.diag([1.5, 1.0, 1.0, 1]), "scaled by 1.50"),
        (np.array([[1.0, 0, 0, 0], [0, 1, 0, 40], [0, 0, 1, 0], [0, 0, 0, 1]]), "resembles the atlas little"),
        (np.diag([1.0, -1, -1, 1]), "turned by 180°"),
        (np.array([[1.0, 0, 0, 900], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "covers 0%"),
    ],
)
def test_wrong_transforms_are_hopeless(transform: np.ndarray, words: str) -> None:
    atlas = load_atlas()
    assert any(words in said for said in assess(atlas.head, transform, atlas).hopeless)


def test_scaled_hu_are_found() -> None:
    atlas = load_atlas()
    assessment = assess(Volume(atlas.head.array * np.float32(0.5), atlas.head.affine), np.eye(4), atlas)
    assert any("median" in said for said in assessment.doubtful)


def test_a_scan_of_part_of_the_head_is_doubtful() -> None:
    atlas = load_atlas()
    upper = Volume(atlas.head.array[:, :, 60:], atlas.head.affine @ _shifted(60))
    assert [said for said in assess(upper, np.eye(4), atlas).doubtful if "covers" in said]


def _shifted(voxels: int) -> np.ndarray:
    matrix = np.eye(4)
    matrix[2, 3] = voxels
    return matrix


def test_contrast_is_seen_where_it_is() -> None:
    atlas = load_atlas()
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec([0, 0, 0.3]).as_matrix()
    scan = Volume(atlas.head.array, turn @ atlas.head.affine)
    assert not has_contrast(scan, turn)
    filled = atlas.head.array.copy()
    filled[70:130:12, 60:160, 80:84] = 300  # five straight vessels of 4 mm²
    assert has_contrast(Volume(filled, turn @ atlas.head.affine), turn)


def test_volumes_that_are_no_head_ct_in_hu() -> None:
    head = load_atlas().head
    check_head_ct(head, "here")
    for array, affine, words in (
        (head.array + 1024, head.affine, "no air"),
        (np.where(head.array > -300, 900, head.array), head.affine, "no soft tissue"),
        (head.array, np.diag([0.2, 0.2, 0.2, 1]), "too small"),
    ):
        with pytest.raises(RlvoError, match=words):
            check_head_ct(Volume(array, affine), "here")
