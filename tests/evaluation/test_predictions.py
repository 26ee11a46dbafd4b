from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlvo.errors import RlvoError
from rlvo.evaluation.predictions import check_predictions, read_predictions, write_predictions


@pytest.fixture
def predictions() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "patient": ["007", "NA", "007", "NA"],
            "member": ["a-f0", "a-f0", "1e5", "1e5"],
            "fold": [0, 0, 1, 1],
            "split": ["validation", "train", "test", "test"],
            "probability": [1 / 3, 0.1 + 0.2, 5e-324, 1.0],
            "label": [1, 0, 1, 0],
        }
    )


def test_what_is_written_is_read(tmp_path: Path, predictions: pd.DataFrame) -> None:
    path = tmp_path / "predictions.csv"
    write_predictions(predictions[predictions.columns[::-1]], path)
    pd.testing.assert_frame_equal(read_predictions(path), check_predictions(predictions), check_exact=True)


def test_single_precision_reads_back_as_itself(tmp_path: Path, predictions: pd.DataFrame) -> None:
    probability = np.random.default_rng(0).random(4, dtype=np.float32)
    write_predictions(predictions.assign(probability=probability), tmp_path / "p.csv")
    np.testing.assert_array_equal(read_predictions(tmp_path / "p.csv")["probability"].astype(np.float32), probability)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("probability", [0.5, np.nan, 1.5, 0.5], r"outside 0–1: NA \(a-f0\), 007 \(1e5\)"),
        ("split", ["validation", "val", "test", "test"], r"a split other than.*NA \(a-f0\)"),
        ("label", [1, 0.5, 1, 0], "labels other than"),
        ("label", [1, 0, 0, 0], r"differing labels: 007 \(a-f0\), 007 \(1e5\)"),
        ("patient", ["007", "007", "007", "NA"], r"predicts twice: 007 \(a-f0\)"),
        ("fold", ["x", 0, 1, 1], "not readable"),
    ],
)
def test_rows_that_cannot_be_are_refused_and_named(
    predictions: pd.DataFrame, column: str, values: list, message: str
) -> None:
    predictions[column] = pd.Series(values)
    with pytest.raises(RlvoError, match=message):
        check_predictions(predictions)


def test_columns_are_the_columns(predictions: pd.DataFrame) -> None:
    for wrong in (predictions.drop(columns="fold"), predictions.assign(score=1)):
        with pytest.raises(RlvoError, match="Needed: patient, member, fold, split, probability, label"):
            check_predictions(wrong)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such predictions"), ("", "not a table"), ("a,b\n1,2,3\n4\n", "predictions.csv"), ("a\n1\n", "Needed")],
)
def test_a_file_that_holds_none_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "predictions.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RlvoError, match=message):
        read_predictions(path)
