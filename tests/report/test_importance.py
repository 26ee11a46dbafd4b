import numpy as np
import pandas as pd
import pytest

from rlvo.config.predictors import PAPER_PREDICTORS
from rlvo.explain.ranking import agreement, rank_predictors
from rlvo.report.importance import importance_rows, radar_plot

P = list(PAPER_PREDICTORS)


def test_ranks_are_shown_with_readable_names() -> None:
    strength = pd.Series(range(len(P), 0, -1), P, float)
    drops = pd.DataFrame([strength, strength + 2])
    table = rank_predictors(strength / strength.sum(), drops, pd.DataFrame([strength, -strength]))
    assert list(table.index) == P
    assert table["mean_rank"].tolist() == list(range(1, len(P) + 1))
    assert table["auc_drop_sd"].to_numpy() == pytest.approx(np.sqrt(2))
    assert table["shapley"].to_numpy() == pytest.approx(strength)
    assert agreement(table).to_numpy() == pytest.approx(1)
    opposite = rank_predictors(strength, -drops, pd.DataFrame([strength]))
    assert agreement(opposite).loc["auc_drop", "shapley"] == pytest.approx(-1)
    rows = importance_rows(table)
    assert rows.loc["Tmax > 4 s", "Absolute contribution, %"] == pytest.approx(
        100 * table.at["tmax_gt4_ml", "absolute_contribution"]
    )
    assert rows["Absolute contribution, %"].sum() == pytest.approx(100)


def test_the_radar_closes_and_shows_percent() -> None:
    absolute = pd.Series(np.arange(1.0, len(P) + 1) / 171, P)
    figure = radar_plot(absolute / 2, absolute / 2, pd.DataFrame([absolute] * 4), absolute)
    left, right = figure.axes
    assert [text.get_text() for text in left.get_xticklabels()][:2] == ["Age", "Sex"]
    line = right.lines[0].get_ydata()
    assert line[0] == line[-1] == pytest.approx(100 / 171)
    assert len(line) == len(P) + 1
