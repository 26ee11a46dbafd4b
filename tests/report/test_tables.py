"""The results table says every figure with its interval, and what cannot be estimated."""

import io

import pandas as pd
import pytest
from rich.console import Console

from rlvo.evaluation.figures import Figures
from rlvo.report.tables import Performance, performance_table


def page(ceiling: float | None) -> str:
    holdout = Figures(96, 0, 29, 0.873, (0.791, 0.934), 0.8, float("nan"), 0.7, 0.9)
    performance = Performance(pd.DataFrame({"auc": [0.6, 0.7, 0.8]}), holdout, ceiling)
    text = io.StringIO()
    Console(file=text, width=80).print(performance_table({"efficientnet-b0 daft": performance}, title="study"))
    return text.getvalue()


@pytest.mark.parametrize("ceiling", [0.978, None])
def test_a_line_fits_a_terminal_whole(ceiling: float | None) -> None:
    [line] = [line for line in page(ceiling).splitlines() if line.startswith("efficientnet")]
    figures = ["0.70±0.10", "0.87", "(0.79–0.93)", *(["0.98"] if ceiling else []), "0.80", "0.70", "0.90", "n.e."]
    assert line.split() == ["efficientnet-b0", "daft", *figures]


def test_what_is_optimistic_is_said() -> None:
    text = page(None)
    assert "AUC*" in text
    assert "* Optimistic" in text
    assert "96 patients, 29 rLVO" in text
