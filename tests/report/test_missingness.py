"""A bar a column with missing values, the share right and the count beside it."""

import pandas as pd
import pytest

from rlvo.report.missingness import missingness_plot


def test_bars_are_shares_most_missing_first() -> None:
    table = pd.DataFrame({"age": [1, 2, 3, None], "sex": ["F"] * 4, "nihss": [None, 2, None, None]})
    [axes] = missingness_plot(table).axes
    assert [bar.get_width() for bar in axes.patches] == [0.75, 0.25]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["NIHSS", "Age"]
    assert [text.get_text().strip() for text in axes.texts] == ["3", "1"]


def test_there_is_no_picture_of_nothing() -> None:
    with pytest.raises(ValueError, match="no value is missing"):
        missingness_plot(pd.DataFrame({"age": [1.0]}))
