"""The study picture shows the curves and, of the volumes, what lies within 6 mm of the vessels."""

from pathlib import Path

import numpy as np
from matplotlib.image import imread

from rlvo.report.study_picture import RocCurve, draw_study_picture, study_picture


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


def test_sides_are_named_intervals_shown_and_the_baseline_told_apart() -> None:
    volume, label = np.zeros((20, 30, 30)), np.arange(40) % 2
    volume[18, 10, 10] = 1  # on the patient's right: x grows to the right
    score = label + np.arange(40) / 20
    curves = [
        RocCurve("clinical", label, -score, (0.1, 0.4), is_baseline=True),
        RocCurve("own", label, score, (0.6, 0.9)),
    ]
    figure = study_picture(curves, {"vessels": volume}, spacing=(2.0, 2.0, 2.0), title="t", notes=["registered m"])
    roc, axial, coronal = [axes for part in figure.subfigs for axes in part.axes]
    for axes in (axial, coronal):
        sides = {text.get_text(): text.get_position()[0] for text in axes.texts}
        assert sides["R"] < 0.5 < sides["L"]
        left, right = axes.get_xlim()
        assert abs(left - 18) < abs(right - 18)
    [legend] = [part.legends[0] for part in figure.subfigs if part.legends]
    names = [text.get_text() for text in legend.get_texts()]
    assert [name.partition(": ")[0] for name in names] == ["clinical", "own"]
    assert names[1].endswith(" (0.60–0.90)")
    styles = {str(line.get_label()).partition(":")[0]: line.get_linestyle() for line in roc.lines}
    assert (styles["clinical"], styles["own"]) == ("--", "-")
    assert "registered m" in [text.get_text() for part in figure.subfigs for text in part.texts]
