"""Predictions survive their file to the bit; rows that break a rule are refused by name."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlvo.errors import RlvoError
from rlvo.evaluation.predictions import (
    check_out_of_fold,
    check_predictions,
    read_all_predictions,
    read_predictions,
    rename_patients,
    write_predictions,
)


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


def test_patients_are_renamed_and_nothing_else(tmp_path: Path, predictions: pd.DataFrame) -> None:
    """An id as it is in the cohort gets the name, however the file had to write it."""
    path, other = tmp_path / "predictions.csv", tmp_path / "renamed.csv"
    predictions["patient"] = ["=1", 'a, "b"', "=1", 'a, "b"']
    write_predictions(predictions, path)
    other.write_text(rename_patients(path, {"=1": "+one", 'a, "b"': "two\nlines"}.__getitem__))
    write_predictions(predictions.assign(patient=["+one", "two\nlines"] * 2), path)
    assert read_predictions(other).drop(columns="patient").equals(read_predictions(path).drop(columns="patient"))
    assert read_predictions(other)["patient"].tolist() == ["+one", "two\nlines"] * 2


@pytest.mark.parametrize("text", ["", "member,patient,fold,split,probability,label\n"])
def test_a_file_of_other_columns_is_not_renamed(tmp_path: Path, text: str) -> None:
    (path := tmp_path / "predictions.csv").write_text(text)
    with pytest.raises(RlvoError, match="not a table of predictions"):
        rename_patients(path, str)


def test_many_files_read_at_once_are_what_each_holds(tmp_path: Path, predictions: pd.DataFrame) -> None:
    """And one that cannot be read costs itself alone."""
    paths = [tmp_path / f"{number}.csv" for number in range(3)]
    for number, path in enumerate(paths):
        own = {"patient": ["=1", "a,b"] * 2, "member": [f"{number}-f0"] * 2 + [f"{number}-f1"] * 2}
        write_predictions(predictions.assign(**own, probability=number / 3), path)
    expected = pd.concat([read_predictions(path) for path in paths], ignore_index=True)
    assert read_all_predictions([]) == ([], {})
    tables, refused = read_all_predictions(paths)
    assert (len(tables), refused) == (1, {})
    pd.testing.assert_frame_equal(tables[0], expected, check_exact=True)
    for damage in ("", "patient,member\n", paths[1].read_text()[:-3], '"' + paths[1].read_text()):
        paths[1].write_text(damage)
        tables, refused = read_all_predictions(paths)
        assert list(refused) == [paths[1]]
        others = pd.concat([read_predictions(paths[0]), read_predictions(paths[2])])
        pd.testing.assert_frame_equal(pd.concat(tables), others, check_exact=True)
    paths[1].unlink()
    assert list(read_all_predictions(paths)[1]) == [paths[1]]


def test_single_precision_reads_back_as_itself(tmp_path: Path, predictions: pd.DataFrame) -> None:
    probability = np.random.default_rng(0).random(4, dtype=np.float32)
    write_predictions(predictions.assign(probability=probability), tmp_path / "p.csv")
    np.testing.assert_array_equal(read_predictions(tmp_path / "p.csv")["probability"].astype(np.float32), probability)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("probability", [0.5, np.nan, 1.5, 0.5], r"outside 0–1: NA \(a-f0\), 007 \(1e5\)"),
        ("split", ["validation", "val", "test", "test"], r"splits other than.*NA \(a-f0\)"),
        ("label", [1, 0.5, 1, 0], "labels other than"),
        ("label", [1, 0, 0, 0], r"whose labels differ: 007 \(a-f0\), 007 \(1e5\)"),
        ("patient", ["007", "007", "007", "NA"], r"predicts twice: 007 \(a-f0\)"),
        ("fold", ["x", 0, 1, 1], "cannot be read"),
    ],
)
def test_invalid_rows_are_refused_and_named(
    predictions: pd.DataFrame, column: str, values: list[object], message: str
) -> None:
    predictions[column] = pd.Series(values)
    with pytest.raises(RlvoError, match=message):
        check_predictions(predictions)


def test_missing_and_unknown_columns_are_refused(predictions: pd.DataFrame) -> None:
    for wrong in (predictions.drop(columns="fold"), predictions.assign(score=1)):
        with pytest.raises(RlvoError, match="must be patient, member, fold, split, probability, label"):
            check_predictions(wrong)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("", "not a table"), ("a,b\n1,2,3\n4\n", "predictions.csv"), ("a\n1\n", "must be")],
)
def test_a_file_without_predictions_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "predictions.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RlvoError, match=message):
        read_predictions(path)


FOLDS, TEST = (("a", "b"), ("c", "d")), ("t",)


@pytest.fixture
def of_two_folds() -> pd.DataFrame:
    """Two members, one per fold, for every patient of a cohort of five."""
    patients, label = ["a", "b", "c", "d", "t"], [0, 1, 0, 1, 1]
    splits = [["validation"] * 2 + ["train"] * 2 + ["test"], ["train"] * 2 + ["validation"] * 2 + ["test"]]
    rows = {"patient": patients, "probability": [0.1, 0.2, 0.3, 0.4, 0.5], "label": label}
    return pd.concat(
        [pd.DataFrame(rows | {"member": f"m-f{k}", "fold": k, "split": splits[k]}) for k in range(2)], ignore_index=True
    )


def test_predictions_that_keep_to_their_folds_pass(of_two_folds: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(check_out_of_fold(of_two_folds, FOLDS, TEST), check_predictions(of_two_folds))
    check_out_of_fold(of_two_folds[of_two_folds["split"] == "test"], FOLDS, TEST)


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (2, {"split": "validation"}, r"another split.*: c \(m-f0\)"),
        (0, {"split": "train"}, r"another split.*: a \(m-f0\)"),
        (4, {"split": "validation"}, r"another split.*: t \(m-f0\)"),
        (5, {"split": "test"}, r"another split.*: a \(m-f1\)"),
        (7, {"patient": "x", "split": "train"}, r"in no fold.*: x \(m-f1\)"),
        (3, {"fold": 2}, r"folds other than 0 to 1: d \(m-f0\)"),
        (1, None, r"without a prediction: b \(m-f0\)"),
    ],
)
def test_a_row_of_the_wrong_split_is_named(
    of_two_folds: pd.DataFrame, row: int, change: dict[str, object] | None, message: str
) -> None:
    if change is None:
        of_two_folds = of_two_folds.drop(index=row)
    else:
        of_two_folds.loc[row, list(change)] = list(change.values())
    with pytest.raises(RlvoError, match=message):
        check_out_of_fold(of_two_folds, FOLDS, TEST)
