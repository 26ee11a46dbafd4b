"""What moved a decision, in words and drawn."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from rlvo.report.decision import (
    IF_TYPICAL,
    decision_exhibit,
    decision_figure,
    place_in_words,
    training_exhibit,
)


@pytest.fixture
def values() -> pd.DataFrame:
    rows = [
        ("nihss", 27.0, 14.0, 0.3, -0.2, 0, 0.0, 36.0, (95, 100), None),
        ("sex", "M", "F", -0.1, 0.2, 1, None, None, None, 184),
        ("ivt", 1.0, 0.0, 0.0, 0.1, 1, None, None, None, 121),
        ("cbf_lt30_ml", None, 9.5, 0.0, 0.1, 1, 0.0, 151.0, None, None),
    ]
    names = "predictor value typical contribution score_if_typical rlvo_if_typical lowest highest percentiles same"
    return pd.DataFrame(rows, columns=names.split(), dtype=object).infer_objects().assign(known=384)


def test_the_table_says_what_each_value_does(values: pd.DataFrame) -> None:
    exhibit = decision_exhibit(values, -0.1, 0.1, 1)
    assert exhibit.shown is not None
    assert exhibit.shown["This patient"].tolist() == ["27", "male", "yes", "missing"]
    assert exhibit.shown["Typical"].tolist() == ["14", "female", "no", "9.5"]
    assert exhibit.shown["Added to the score"].tolist() == ["+0.300", "−0.100", "0.000", "0.000"]
    assert exhibit.best == {(0, IF_TYPICAL)}
    assert "1 of 4 values would change the answer" in exhibit.caption
    assert exhibit.table["contribution"].sum() == pytest.approx(0.2)


def test_steps_lead_from_the_typical_score_to_the_answers(values: pd.DataFrame) -> None:
    [axes] = decision_figure(values, -0.1, 0.1).axes
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [
        pytest.approx((-0.1, 0.3)),
        pytest.approx((0.2, -0.1)),
    ]
    low, high = axes.get_xlim()
    assert low < -0.1
    assert high > 0.2
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["These images, typical values", "NIHSS: 27 (14)", "Sex: male (female)", "The answer's score"]
    [axes] = decision_figure(pd.concat([values.head(1)] * 13), 0.0, 3.9).axes
    assert axes.get_yticklabels()[-2].get_text() == "NIHSS: 27 (14)"
    many = pd.concat([values.head(1)] * 20)
    [axes] = decision_figure(many, 0.0, 6.0).axes
    assert axes.get_yticklabels()[-2].get_text() == "8 others"
    assert axes.patches[-1].get_width() == pytest.approx(2.4)  # type: ignore[attr-defined]


def test_places_are_counts_and_ranges(values: pd.DataFrame) -> None:
    shown = training_exhibit(values, 400).shown
    assert shown is not None
    assert shown["Among the training patients"].tolist() == [
        "above the 95th percentile",
        "184 of 384 have the same",
        "121 of 384 have the same",
        "missing: imputed as in training",
    ]
    assert shown["Their values"].tolist() == [
        "median 14, 0 to 36",
        "mostly female",
        "mostly no",
        "median 9.5, 0 to 151",
    ]
    row = values.iloc[0].to_dict()
    expected = {
        (25, 75): "between the 25th and the 75th percentile",
        (0, 10): "below the 10th percentile",
        (0, 100): "as all of them",
        None: "within their range",
    }
    assert {key: place_in_words(row | {"percentiles": key}) for key in expected} == expected
    assert place_in_words(row | {"value": 40.0}) == "higher than all; counts as the nearest"
    just_beyond = values.assign(value=[36.04, *values["value"][1:]], highest=[36.01, *values["highest"][1:]])
    shown = training_exhibit(just_beyond, None).shown
    assert shown is not None
    assert shown.iloc[0].tolist()[1:4] == ["36.04", "higher than all; counts as the nearest", "median 14, 0 to 36.01"]
    unknown = training_exhibit(values.assign(known=np.nan), None).shown
    assert unknown is not None
    assert "Recorded in" not in unknown
