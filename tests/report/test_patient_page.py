"""The page about one patient."""

import re

import numpy as np
import pandas as pd

from rlvo.about import NOTICE
from rlvo.config.grid import Grid
from rlvo.explain.faithfulness import Faithfulness
from rlvo.explain.gradcam import MeanMaps
from rlvo.report.exhibit import Section
from rlvo.report.patient_page import map_warnings, patient_page, saliency_exhibit, votes_exhibit

VOTES = pd.DataFrame(
    {"fold": [0, 1], "NCCT": [(0.2, 0.3), (0.9, 0.8)], "CTA": [(0.5,), (0.6,)], "abstaining": [1, 0]}
).assign(score=[0.3, 0.7], threshold=[0.4, 0.7])


def test_each_fold_is_compared_with_its_own_threshold() -> None:
    exhibit = votes_exhibit(VOTES)
    assert exhibit.shown is not None
    assert exhibit.shown["p, NCCT"].tolist() == ["0.20, 0.30", "0.90, 0.80"]
    assert exhibit.shown["Vote"].tolist() == ["against", "for rLVO"]
    assert exhibit.shown["Margin"].tolist() == ["−0.100", "0.000"]
    assert "1 members have no say" in exhibit.caption
    assert exhibit.table["NCCT"].tolist() == ["0.2 0.3", "0.9 0.8"]


def test_the_page_is_self_contained_and_escapes_what_users_wrote() -> None:
    sections = [Section("answer", "The answer", exhibits=[votes_exhibit(VOTES)])]
    html = patient_page("<b>17</b>", {"Answer": "No alert"}, ["imputed: age"], sections, "17_files")
    assert NOTICE in html
    assert "<h1>Patient &lt;b&gt;17&lt;/b&gt;</h1>" in html
    assert "<li>imputed: age</li>" in html
    assert not re.search(r"https?://|<script|<link", html)
    assert "No warnings." in patient_page("17", {}, [], sections, "17_files")


def test_maps_that_fail_or_are_empty_are_warned_of() -> None:
    maps = MeanMaps(np.zeros((2, 2, 2)), np.ones((2, 2, 2)), {"before": 3, "after": 0}, 3)
    checks = {
        "before": Faithfulness("before", failures=("all zero",)),
        "after": Faithfulness("after", failures=("it hardly depends on the weights",)),
    }
    empty, failed = map_warnings(maps, checks)  # type: ignore[arg-type]
    assert empty == "The map before the fusion is empty: nothing in the image speaks for rLVO."
    assert failed.startswith("The map after the fusion fails its checks")
    assert map_warnings(MeanMaps(maps.after, maps.after, {"before": 0, "after": 0}, 3), {}) == []


def test_the_caption_says_if_the_map_points_at_the_other_side() -> None:
    grid = Grid(shape=(8, 6, 6), spacing=(20, 20, 20), origin=(-70, -50, -50))
    spot = np.ones(grid.shape, np.float32)
    spot[6, 3, 3] = 9  # x = +50 mm: on the right
    maps, volumes = MeanMaps(spot, spot, {"before": 0, "after": 0}, 4), {"cta": spot}
    captions = {side: saliency_exhibit(volumes, maps, {}, grid, side).caption for side in ("left", "right", None)}
    assert ["other side" in caption for caption in captions.values()] == [True, False, False]
    assert "maximum on the left" in captions["left"]
    assert all("were not checked" in caption for caption in captions.values())
