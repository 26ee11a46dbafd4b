"""Measured figures, and the pace that follows from them."""

import pytest

from rlvo.search.calibration import Measured
from rlvo.training.checkpoint import WORTH


def test_the_pace_counts_each_fold_its_checkpoints_and_its_start() -> None:
    found = Measured(training=0.2, validation=0.1, reading=0.05, statistics=0.01, saving=3.0, peak_bytes=1, watts=None)
    pace = found.pace(development=400, folds=4)
    epoch = 300 * 0.2 + 100 * 0.1
    assert pace.epoch == pytest.approx(epoch + min(3, epoch / WORTH))
    assert pace.start == pytest.approx(300 * 0.01 + 100 * 0.1 + 3)
    assert found.input_share == pytest.approx(0.25)
