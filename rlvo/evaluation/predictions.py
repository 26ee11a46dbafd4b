"""Predictions: the one table that everything after training reads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from rlvo.errors import RlvoError
from rlvo.files import atomic_write

COLUMNS = ("patient", "member", "fold", "split", "probability", "label")
SPLITS = ("train", "validation", "test")


def check_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """The table with its columns in order and typed: text, text, int, text, float64, int.

    Raises:
        RlvoError: columns missing or besides; a probability outside 0–1; another split or label; a patient that a
            member predicts twice, or with differing labels. Names up to five rows.
    """
    if set(predictions.columns) != set(COLUMNS):
        raise RlvoError(
            f"columns are {', '.join(map(str, predictions.columns))}",
            where="predictions",
            fix=f"Needed: {', '.join(COLUMNS)}",
        )
    table = predictions[list(COLUMNS)]
    try:
        table = table.astype(
            {"patient": "str", "member": "str", "fold": "int64", "split": "str", "probability": "float64"}
        )
        label = table["label"].astype("float64")
    except (ValueError, TypeError) as error:
        raise RlvoError(f"not readable as predictions ({error})", where="predictions") from None
    _refuse(table, ~table["probability"].between(0, 1), "probabilities outside 0–1")
    _refuse(table, ~table["split"].isin(SPLITS), f"a split other than {', '.join(SPLITS)}")
    _refuse(table, ~label.isin([0, 1]), "labels other than 0 and 1")
    _refuse(table, table.duplicated(["patient", "member"], keep=False), "patients that a member predicts twice")
    table = table.astype({"label": "int64"})
    _refuse(table, table.groupby("patient")["label"].transform("nunique") > 1, "patients with differing labels")
    return table


def _refuse(table: pd.DataFrame, wrong: pd.Series, what: str) -> None:
    if wrong.any():
        rows = [f"{row.patient} ({row.member})" for row in table[wrong].itertuples()]
        raise RlvoError(f"{what}: {_some(rows)}", where="predictions")


def _some(rows: Sequence[str]) -> str:
    return ", ".join(rows[:5]) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def check_out_of_fold(
    predictions: pd.DataFrame, folds: Sequence[Collection[str]], test: Collection[str] = ()
) -> pd.DataFrame:
    """`check_predictions`, and that every row's split is what its patient is to the member's fold.

    A validation row is of one of its fold's validation patients, a test row of the test set, a training row of neither;
    a member that has validation rows has one of every validation patient of its fold.

    Args:
        folds: the validation patients of each fold.
        test: the patients held out from all folds.

    Raises:
        RlvoError: naming up to five rows.
    """
    table = check_predictions(predictions)
    _refuse(table, ~table["fold"].between(0, len(folds) - 1), f"folds other than 0 to {len(folds) - 1}")
    part = {(patient, k): "validation" for k, fold in enumerate(folds) for patient in fold}
    held_out, known = set(test), {patient for patient, _ in part}
    _refuse(table, ~table["patient"].isin(known | held_out), "patients that are in no fold and not in the test set")
    due = pd.Series(
        [
            "test" if patient in held_out else part.get((patient, fold), "train")
            for patient, fold in zip(table["patient"], table["fold"], strict=True)
        ],
        index=table.index,
        dtype="str",
    )
    _refuse(table, table["split"] != due, "rows of another split than their patient's in that fold")
    validation = table[table["split"] == "validation"]
    members = validation.groupby("member").agg(fold=("fold", "first"), patients=("patient", set))
    missing = [
        f"{patient} ({member})"
        for member, fold, seen in members.itertuples(name=None)
        for patient in sorted(set(folds[fold]) - seen)
    ]
    if missing:
        raise RlvoError(f"validation patients without a prediction: {_some(missing)}", where="predictions")
    return table


def align(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Two models' predictions of the same patients side by side, as a paired comparison needs them.

    Each has one row a patient and split, say the validation rows of all folds of one model.

    Returns:
        Columns `patient`, `split`, `label`, `probability_a`, `probability_b`, sorted by patient.

    Raises:
        RlvoError: a patient twice in one of them, in one of them only, or with differing labels; names up to five rows.
    """
    key = ["patient", "split"]
    tables = [check_predictions(table) for table in (a, b)]
    for table in tables:
        _refuse(table, table.duplicated(key, keep=False), "patients who have more than one prediction")
    both = tables[0].merge(tables[1], on=key, how="outer", suffixes=("_a", "_b"), indicator=True).sort_values(key)
    lonely = both[both["_merge"] != "both"]
    if len(lonely):
        rows = [f"{row.patient} ({row.split})" for row in lonely.itertuples()]
        raise RlvoError(f"patients whom only one of the models predicts: {_some(rows)}", where="predictions")
    differing = both.loc[both["label_a"] != both["label_b"], "patient"]
    if len(differing):
        raise RlvoError(f"patients with differing labels: {_some(list(differing))}", where="predictions")
    columns = ["patient", "split", "label", "probability_a", "probability_b"]
    return both.rename(columns={"label_a": "label"})[columns].astype({"label": "int64"}).reset_index(drop=True)


def write_predictions(predictions: pd.DataFrame, path: Path) -> None:
    """Check and write as CSV, atomically; every float reads back as itself."""
    atomic_write(path, check_predictions(predictions).to_csv(index=False))


def read_predictions(path: Path) -> pd.DataFrame:
    """Read and check. Raises RlvoError where the file is missing or not such a table."""
    try:
        table = pd.read_csv(
            path,
            dtype={"patient": "str", "member": "str", "split": "str"},
            keep_default_na=False,
            float_precision="round_trip",
        )
        return check_predictions(table)
    except FileNotFoundError:
        raise RlvoError("no such predictions", where=path) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise RlvoError(f"not a table of predictions ({error})", where=path) from None
    except RlvoError as error:
        raise RlvoError(error.what, where=path, fix=error.fix) from None
