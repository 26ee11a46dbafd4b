"""The forest plot draws what it prints and says what cannot be estimated; pictures of baselines are written."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from rlvo.evaluation.calibration import measure_calibration
from rlvo.report.baselines import draw_baselines, forest_plot

ODDS = pd.DataFrame(
    [
        ("atrial_fibrillation", "vs no", 0.36, 0.19, 0.67, 0.001, ""),
        ("tmax_gt4_ml", "per mL", 1.006, 1.001, 1.011, 0.01, ""),
        ("sex=F", "vs M", 1.1, 1e-5, 1e6, 0.9, ""),
        ("occlusion_site=M2", "vs TICA", np.nan, np.nan, np.nan, np.nan, "separates the classes"),
    ],
    columns=["term", "unit", "odds_ratio", "low", "high", "p", "note"],
)


@pytest.fixture(scope="module")
def figure() -> Figure:
    return forest_plot(ODDS, title="481 patients")


def test_odds_ratios_are_printed_beside_their_variables(figure: Figure) -> None:
    text = {item.get_text(): item.get_position()[1] for item in figure.axes[0].texts}
    rows = (
        ("Atrial fibrillation", "0.36 (0.19–0.67)"),
        ("Tmax > 4 s, per mL", "1.006 (1.001–1.011)"),
        ("Sex, female vs male", "1.10 (< 0.01 to > 100)"),
        ("Occlusion, M2 vs TICA", "not estimable: separates the classes"),
    )
    for y, (label, shown) in enumerate(rows):
        assert text[label] == text[shown] == y


def test_intervals_lie_where_they_belong_and_end_in_arrows_beyond_the_axis(figure: Figure) -> None:
    [axes] = figure.axes
    drawn = {(line.get_marker(), line.get_ydata()[0]): list(line.get_xdata()) for line in axes.lines[1:]}
    assert drawn["None", 0] == [0.19, 0.67]
    assert drawn["s", 0] == [0.36]
    low, high = axes.get_xlim()
    assert (drawn["<", 2], drawn[">", 2]) == ([low], [high])
    assert not any(y == 3 for _, y in drawn)
    assert axes.get_xscale() == "log"


def test_nothing_estimable_is_still_a_picture() -> None:
    assert forest_plot(ODDS[3:], title="").axes[0].get_xlim() == (0.5, 2)


def test_pictures_are_written_as_vectors_and_pixels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    validation = pd.DataFrame({"label": random.integers(0, 2, 60), "probability": random.random(60)})
    found = measure_calibration(validation["label"], validation["probability"])
    paths = draw_baselines(tmp_path, ODDS, {"a": validation}, {"a": found}, title="t")
    names = {f"{name}.{kind}" for name in ("odds_ratios", "calibration", "decision_curve") for kind in ("svg", "png")}
    assert {path.name for path in paths} == {path.name for path in tmp_path.iterdir()} == names
