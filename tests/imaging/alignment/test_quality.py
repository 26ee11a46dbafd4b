"""Figures of a registration and their limits, on the atlas itself and on what must fail."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score
from support.heads import rigid

from rlvo.imaging.alignment.atlas import built_in_atlas
from rlvo.imaging.alignment.pyramid import atlas_pyramid, head_pyramid, working_copy
from rlvo.imaging.alignment.quality import (
    FLIPS,
    LIMITS,
    assess,
    flip_margins,
    judge,
    measure_geometry,
    mutual_information,
)
from rlvo.imaging.alignment.registration import register_cta
from rlvo.imaging.reading.source import read_volume
from rlvo.imaging.volume import AIR, Volume


def test_mutual_information_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(5000)
    b = np.clip(a + 0.2 * rng.normal(size=5000), 0, 0.999)
    expected = mutual_info_score((a * 32).astype(int), (b * 32).astype(int))
    assert mutual_information(a, b) == pytest.approx(expected, rel=1e-9)


def test_the_atlas_fits_itself() -> None:
    atlas = built_in_atlas()
    assessment = assess(atlas.head, np.eye(4), atlas)
    assert set(assessment.figures) == set(LIMITS)
    assert assessment.doubtful == assessment.hopeless == ()
    assert assessment.figures["correlation"] > 0.99
    assert assessment.figures["anisotropy"] == pytest.approx(1)
    assert min(assessment.figures[flip] for flip in FLIPS) > 1.2
    assert assessment.figures["coverage"] == 1
    assert assessment.figures["rotation"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("scales", "doubts"),
    [
        ((0.78, 0.88, 0.93), 0),  # a small head, a little longer than the atlas: its size is 0.86
        ((0.79, 0.79, 0.79), 1),  # too small
        ((0.75, 0.95, 0.95), 1),  # stretched
        ((1.21, 1.21, 1.21), 1),
    ],
)
def test_size_and_shape_of_the_head_are_judged_apart(scales: tuple[float, float, float], doubts: int) -> None:
    found = measure_geometry(np.diag([*scales, 1.0]))
    assert found["scale"] == pytest.approx(np.prod(scales) ** (1 / 3))
    doubtful, hopeless = judge(found, LIMITS)
    assert (len(doubtful), len(hopeless)) == (doubts, 0)


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (np.diag([1.5, 1.0, 1.0, 1]), "scaled by 1.50"),
        (rigid(0, [0, 0, 1], [0, 40, 0]), "hardly resembles the atlas"),
        (np.diag([1.0, -1, -1, 1]), "rotated by 180°"),
        (rigid(0, [0, 0, 1], [900, 0, 0]), "covers 0%"),
    ],
)
@pytest.mark.slow
def test_wrong_transforms_are_hopeless(transform: np.ndarray, words: str) -> None:
    atlas = built_in_atlas()
    assert any(words in said for said in assess(atlas.head, transform, atlas).hopeless)


@pytest.mark.parametrize(
    ("signs", "flip", "words"),
    [
        ((1, -1, 1), "front_to_back", "mirrored front to back"),
        ((1, 1, -1), "upside_down", "upside down"),
        ((1, -1, -1), "turned_over", "upside down and face down"),
    ],
)
@pytest.mark.slow
def test_the_flip_is_named(signs: tuple[int, int, int], flip: str, words: str) -> None:
    atlas = built_in_atlas()
    flipped = Volume(
        np.asfortranarray(atlas.head.array[tuple(slice(None, None, sign) for sign in signs)]), atlas.head.affine
    )
    margins = flip_margins(atlas_pyramid(atlas), head_pyramid(flipped), np.eye(4))
    assert margins[flip] == min(margins.values()) < 0.8
    assert words in LIMITS[flip].words


@pytest.mark.slow
def test_sides_are_not_told_apart_and_nothing_fits_nowhere() -> None:
    atlas = built_in_atlas()
    pyramid = atlas_pyramid(atlas)
    other_side = Volume(np.asfortranarray(atlas.head.array[::-1]), atlas.head.affine)
    margins = flip_margins(pyramid, head_pyramid(other_side), np.eye(4), threads=1)
    assert min(margins.values()) > 1.2
    assert margins == flip_margins(pyramid, head_pyramid(other_side), np.eye(4), threads=4)
    far = rigid(0, [0, 0, 1], [900, 0, 0])
    assert set(flip_margins(pyramid, pyramid, far).values()) == {0}


@pytest.mark.slow
def test_a_ball_in_a_shell_is_no_head() -> None:
    atlas = built_in_atlas()
    x, y, z = np.ogrid[-60:61, -60:61, -60:61]
    radius = 2 * np.sqrt(x**2 + y**2 + z**2)  # mm
    hu = np.select([radius < 84, radius < 90], [30, 900], -1000).astype(np.float32)
    ball = Volume(np.asfortranarray(hu), rigid(0, [0, 0, 1], [-120, -138, -112]) @ np.diag([2, 2, 2, 1]))
    assessment = assess(ball, register_cta(ball, atlas), atlas)
    assert [said for said in assessment.hopeless if "hardly resembles the atlas" in said]
    assert all(0.9 < assessment.figures[flip] < 1.1 for flip in FLIPS)


@pytest.mark.slow
def test_a_real_head_is_refused_flipped_and_doubtful_without_its_base(real: Path) -> None:
    atlas = built_in_atlas()
    head = working_copy(read_volume(real / "head_ct_tilted_dicom"))
    hu = np.nan_to_num(head.array, nan=AIR)
    flipped = Volume(np.asfortranarray(hu[:, ::-1]), head.affine)
    said = assess(flipped, register_cta(flipped, atlas), atlas).hopeless
    assert [words for words in said if "mirrored front to back" in words]
    upper = Volume(np.asfortranarray(hu[:, :, 35:]), head.affine @ rigid(0, [0, 0, 1], [0, 0, 35]))
    assessment = assess(upper, register_cta(upper, atlas), atlas)
    assert assessment.hopeless == ()
    assert [words for words in assessment.doubtful if "covers" in words]


@pytest.mark.slow
def test_scaled_hu_and_a_scan_of_part_of_the_head_are_doubtful() -> None:
    atlas = built_in_atlas()
    half = Volume(atlas.head.array * np.float32(0.5), atlas.head.affine)
    upper = Volume(atlas.head.array[:, :, 60:], atlas.head.affine @ rigid(0, [0, 0, 1], [0, 0, 60]))
    assert any("median" in words for words in assess(half, np.eye(4), atlas).doubtful)
    assert any("covers" in words for words in assess(upper, np.eye(4), atlas).doubtful)
