"""The flow chart shows every count, and its boxes neither overlap nor leave the picture; bars show missing values."""

import itertools

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rlvo.cohort.selection import FlowStep
from rlvo.report.cohort_pictures import Part, flow_chart, missingness_plot

STEPS = (
    FlowStep("no occlusion on DSA", 31, 808, ("p-1",)),
    FlowStep("NCCT or CTA missing", 169, 639, ()),
    FlowStep("more than 3 CTP variables missing", 40, 599, ()),
)


def chart(folds: int, steps: tuple[FlowStep, ...] = STEPS) -> Figure:
    parts = [Part(f"Fold {k + 1}", 100 + k, 10 + k) for k in range(folds)]
    return flow_chart(839, steps, Part("Development", 481, 77), Part("Test set", 118, 16), parts)


def test_every_count_is_shown() -> None:
    text = [item.get_text() for item in chart(4).axes[0].texts]
    for expected in ("n = 839", "No occlusion on DSA", "n = 31", "n = 169", "n = 40", "808", "639", "n = 599"):
        assert expected in text
    assert "93 rLVO (15.5 %)" in text
    assert "16 rLVO (13.6 %)" in text
    assert "4-fold cross-validation" in text
    assert "p-1" not in "".join(text)


@pytest.mark.parametrize(("folds", "steps"), [(4, STEPS), (12, ()), (2, STEPS * 3)])
def test_boxes_hold_their_text_and_do_not_overlap(folds: int, steps: tuple[FlowStep, ...]) -> None:
    figure = chart(folds, steps)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    [axes] = figure.axes
    boxes = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(boxes) == 4 + len(steps) + folds
    assert all(not a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)
    for text in (text.get_window_extent() for text in axes.texts if text.get_ha() == "center"):
        assert any(box.x0 <= text.x0 and text.x1 <= box.x1 and box.y0 <= text.y0 and text.y1 <= box.y1 for box in boxes)


def test_bars_are_shares_most_missing_first() -> None:
    table = pd.DataFrame({"age": [1, 2, 3, None], "sex": ["F"] * 4, "nihss": [None, 2, None, None]})
    [axes] = missingness_plot(table).axes
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.25]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["NIHSS", "Age"]
    assert [text.get_text().strip() for text in axes.texts] == ["3", "1"]


def test_there_is_no_picture_of_nothing() -> None:
    with pytest.raises(ValueError, match="no value is missing"):
        missingness_plot(pd.DataFrame({"age": [1.0]}))
