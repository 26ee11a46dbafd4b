"""A map that fails its checks is marked wherever the example is shown."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from rlvo.config.grid import Grid
from rlvo.explain.examples import Example
from rlvo.explain.faithfulness import Curve, Faithfulness
from rlvo.explain.gradcam import MeanMaps
from rlvo.report.saliency_examples import FAILED, ShownExample, examples_exhibit

GRID = Grid(shape=(6, 5, 4), spacing=(4, 4, 4), origin=(0, 0, 0))


@pytest.fixture
def shown() -> ShownExample:
    before, after = (np.zeros(GRID.shape, np.float32) for _ in range(2))
    before[1, 1, 1] = after[2, 2, 2] = 3
    curve = Curve((0.8, 0.1), (0.6, 0.7))
    sound = Faithfulness("before", {"head": 0.5, "all layers": 0.1}, curve, curve)
    failed = Faithfulness("after", {"head": 0.9, "all layers": 0.9}, curve, curve, ("it is alike",))
    maps = MeanMaps(before, after, {"before": 0, "after": 1}, 2)
    example, asked = Example("PLANTED-7", "false negative", "median score"), {"densenet CTA": 0.3, "densenet BOTH": 0.4}
    return ShownExample(example, 2, 1, 0, -0.25, asked, maps, {"before": sound, "after": failed})


def test_a_failed_map_is_marked_and_nobody_is_named(shown: ShownExample) -> None:
    volumes = {"cta": np.zeros(GRID.shape, np.float16)}
    exhibit = shown.exhibit(3, volumes, GRID)
    assert exhibit.name == "saliency-3"
    assert exhibit.title == f"Example 3: false negative, median score (after the fusion: {FAILED})"
    assert "rLVO: yes. The networks of fold 2" in exhibit.caption
    assert "say no, with a score of −0.250 (densenet CTA 0.30, densenet BOTH 0.40)" in exhibit.caption
    figures = exhibit.table.set_index("figure")["value"]
    assert figures["after/failed"] == 1
    assert figures["before/failed"] == 0
    assert figures["after/similarity_all_layers"] == 0.9
    assert figures["probability: densenet CTA"] == 0.3
    assert "PLANTED" not in exhibit.table.to_csv() + exhibit.title + exhibit.caption
    sound = replace(shown, checks={"before": shown.checks["before"]})
    assert sound.exhibit(1, volumes, GRID).title == "Example 1: false negative, median score"


def test_the_examples_in_a_table(shown: ShownExample) -> None:
    silent = replace(shown, maps=MeanMaps(np.ones(GRID.shape), np.zeros(GRID.shape), {"before": 0, "after": 2}, 2))
    table = examples_exhibit([shown, silent]).table
    assert table["example"].tolist() == [1, 2]
    assert table["map_before"].tolist() == ["passes its checks"] * 2
    assert table["map_after"].tolist() == [FAILED, "all zero"]
    assert not table.map(lambda cell: "PLANTED" in str(cell)).to_numpy().any()
    assert examples_exhibit([replace(shown, checks={})]).table["map_after"].tolist() == [""]
    assert isinstance(examples_exhibit([shown]).shown, pd.DataFrame)
