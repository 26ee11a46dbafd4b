"""The study picture shows the curves and, of the volumes, what lies within 6 mm of the vessels."""

from pathlib import Path

import numpy as np
from matplotlib.image import imread

from rlvo.report.study_picture import RocCurve, draw_study_picture


def test_only_what_lies_within_six_millimetres_of_the_plane_of_the_vessels_is_shown(tmp_path: Path) -> None:
    def drawn(*bright: tuple[int, int, int]) -> np.ndarray:
        ncct, vessels = np.zeros((20, 30, 30)), np.zeros((20, 30, 30))
        vessels[5, 10, 10] = ncct[0, 10, 10] = 1
        for voxel in bright:
            ncct[voxel] = 1
        path, label = tmp_path / "new" / "study.png", np.arange(40) % 2
        curves, volumes = [RocCurve("a", label, label + np.arange(40))], {"NCCT": ncct, "vessels": vessels}
        draw_study_picture(path, curves, volumes, spacing=(2.0, 2.0, 2.0), title="study")
        return np.asarray(imread(path))

    picture = drawn()
    assert picture.shape[0] > 500
    assert picture[..., :3].std() > 0.1
    np.testing.assert_array_equal(drawn((10, 14, 14)), picture)
    assert (drawn((10, 13, 14)) != picture).any()
    assert (drawn((10, 14, 13)) != picture).any()
