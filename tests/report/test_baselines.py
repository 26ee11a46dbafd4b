"""The forest plot draws what it prints and says what cannot be estimated; pictures of baselines are written."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from rlvo.evaluation.calibration import measure_calibration
from rlvo.evaluation.odds import events_per_variable
from rlvo.report.baselines import (
    draw_baselines,
    few_events,
    forest_plot,
    in_larger_steps,
    unbeaten,
    unbeaten_by_networks,
)

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


def test_effects_of_volumes_are_shown_per_ten_and_others_as_they_are() -> None:
    shown = in_larger_steps(ODDS).set_index("term")
    assert shown.loc["tmax_gt4_ml", "unit"] == "per 10 mL"
    per_unit = ODDS.set_index("term").loc["tmax_gt4_ml"]
    for column in ("odds_ratio", "low", "high"):
        assert np.log(shown.loc["tmax_gt4_ml", column]) == pytest.approx(10 * np.log(per_unit[column]))
    assert shown.loc["tmax_gt4_ml", "p"] == per_unit["p"]
    pd.testing.assert_frame_equal(shown.drop("tmax_gt4_ml"), ODDS.set_index("term").drop("tmax_gt4_ml"))
    assert ODDS.loc[1, "unit"] == "per mL"


def test_too_few_events_are_told_and_nothing_is_in_bold(figure: Figure) -> None:
    assert events_per_variable([1] * 10 + [0] * 400, 19) == events_per_variable([0] * 10 + [1] * 400, 19) == 10 / 19
    assert few_events(10.0) == ""
    note = few_events(10 / 19)
    assert note.startswith("Only 0.5 events per variable")

    def bold(drawn: Figure) -> set[str]:
        return {each.get_text() for each in drawn.axes[0].texts if each.get_fontweight() == "bold"}

    assert "0.36 (0.19–0.67)" in bold(figure)
    warned = forest_plot(ODDS, title="t", note=note)
    assert bold(warned) == {"Variable", "OR (95 % CI)", "p"}
    assert any("0.5 events per variable" in each.get_text() for each in warned.texts)


def test_nothing_estimable_is_still_a_picture() -> None:
    assert forest_plot(ODDS[3:], title="").axes[0].get_xlim() == (0.5, 2)


def test_pictures_are_written_as_vectors_and_pixels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    validation = pd.DataFrame({"label": random.integers(0, 2, 60), "probability": random.random(60)})
    found = measure_calibration(validation["label"], validation["probability"])
    paths = draw_baselines(tmp_path, ODDS, {"a": validation}, {"a": found}, title="t")
    names = {f"{name}.{kind}" for name in ("odds_ratios", "calibration", "decision_curve") for kind in ("svg", "png")}
    assert {path.name for path in paths} == {path.name for path in tmp_path.iterdir()} == names


def test_what_is_not_beaten_is_said_and_silence_means_that_all_are() -> None:
    found = unbeaten(0.75, {"NIHSS": 0.6, "linear image": 0.8, "all clinical": 0.75})
    assert found == ["The ensemble (AUC 0.75) does not beat linear image (0.80), all clinical (0.75)."]
    assert unbeaten(0.81, {"linear image": 0.8}) == []
    behind = unbeaten_by_networks([0.6, 0.8, 0.9], "linear image", 0.8)
    assert behind == ["2 of 3 networks do not beat linear image (0.80) in mean AUC over the folds."]
    assert unbeaten_by_networks([0.7], "linear image", 0.8)[0].startswith("The network does not beat")
    assert unbeaten_by_networks([0.9], "linear image", 0.8) == []
