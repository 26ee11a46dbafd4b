"""Pyramids of scans: what was not scanned, what is left out, and mirror images."""

import gc
from weakref import ref

import numpy as np
import SimpleITK as sitk
from support.heads import displaced_atlas, rigid

from rlvo.imaging.alignment.atlas import built_in_atlas
from rlvo.imaging.alignment.pyramid import atlas_pyramid, head_pyramid, mirror_pyramid, working_copy
from rlvo.imaging.volume import Volume


def test_working_copy_marks_what_was_not_scanned() -> None:
    volume = displaced_atlas(rigid(0.5, [0, 0, 1], [0, 0, 0]))
    copy = working_copy(volume)
    outside = np.isnan(copy.array)
    assert 0.1 < outside.mean() < 0.6
    assert np.nanmin(copy.array) >= -1001


def test_neck_and_table_are_left_out() -> None:
    head = built_in_atlas().head
    long = np.full((*head.array.shape[:2], 400), -1000, dtype=np.float32, order="F")
    long[..., 200:389] = head.array
    long[60:140, 60:140, :210] = 30
    affine = head.affine.copy()
    affine[2, 3] -= 200
    level = head_pyramid(Volume(long, affine)).levels[2.0]
    bottom = level.values.affine[2, 3]
    assert bottom > 95 - 180 - 25


def test_mirror_pyramid_is_the_mirror_image() -> None:
    pyramid = atlas_pyramid(built_in_atlas())
    mirrored = mirror_pyramid(pyramid, (1, -1, 1))
    np.testing.assert_array_equal(mirrored.levels[2.0].valid[:, 0], pyramid.levels[2.0].valid[:, -1])
    values = sitk.GetArrayFromImage(mirrored.images[2.0])
    np.testing.assert_array_equal(values, sitk.GetArrayFromImage(pyramid.images[2.0])[:, ::-1])


def test_what_is_made_of_a_scan_is_made_once_and_not_kept_longer_than_the_scan() -> None:
    volume = displaced_atlas(rigid(0.1, [0, 0, 1], [0, 0, 0]))
    pyramid, copy = head_pyramid(volume), working_copy(volume)
    assert head_pyramid(volume) is pyramid
    assert working_copy(volume) is copy
    assert working_copy(Volume(volume.array, volume.affine)) is not copy
    kept = ref(copy)
    del volume, copy, pyramid
    gc.collect()
    assert kept() is None
