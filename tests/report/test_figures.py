"""The study figure is a picture in which the curves and the volumes are."""

from pathlib import Path

import numpy as np
from matplotlib.image import imread

from rlvo.report.figures import Curve, _slab, study_figure


def test_a_picture_is_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 40)
    volumes = {name: rng.random((12, 10, 8), dtype=np.float32) for name in ("NCCT", "CTA", "vessels")}
    path = tmp_path / "new" / "study.png"
    study_figure(path, [Curve("a", label, label + rng.random(40))], volumes, spacing=(4, 4, 4), title="study")
    picture = imread(path)
    assert picture.shape[0] > 500
    assert picture[..., :3].std() > 0.1


def test_a_slab_shows_what_lies_within_six_millimetres() -> None:
    volume = np.zeros((5, 5, 30))
    volume[1, 2, 12] = volume[3, 3, 20] = 1
    seen = _slab(volume, 2, 10, 2.0)
    assert seen[1, 2] == 1
    assert seen[3, 3] == 0
