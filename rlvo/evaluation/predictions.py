"""Predictions: the one table that everything after training reads, one row per patient and member."""

import csv
import io
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import pandas as pd

from rlvo.errors import RlvoError
from rlvo.files import atomic_write, csv_text, read_csv
from rlvo.text import unescape_formula

COLUMNS = ("patient", "member", "fold", "split", "probability", "label")
SPLITS = ("train", "validation", "test")


def check_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Check predictions; return them with the columns in order and typed: text, text, int, text, float64, int.

    Raises:
        RlvoError: missing or unknown columns; a probability outside 0–1; an unknown split or label; a patient that a
            member predicts twice, or whose labels differ. Names up to five rows.
    """
    if set(predictions.columns) != set(COLUMNS):
        raise RlvoError(
            f"the columns are {', '.join(map(str, predictions.columns))}",
            where="predictions",
            fix=f"They must be {', '.join(COLUMNS)}",
        )
    table = predictions[list(COLUMNS)]
    try:
        table = table.astype(
            {"patient": "str", "member": "str", "fold": "int64", "split": "str", "probability": "float64"}
        )
        label = table["label"].astype("float64")
    except (ValueError, TypeError) as error:
        raise RlvoError(f"they cannot be read ({error})", where="predictions") from None
    _refuse(table, ~table["probability"].between(0, 1), "probabilities outside 0–1")
    _refuse(table, ~table["split"].isin(SPLITS), f"splits other than {', '.join(SPLITS)}")
    _refuse(table, ~label.isin([0, 1]), "labels other than 0 and 1")
    _refuse(table, table.duplicated(["patient", "member"], keep=False), "patients whom a member predicts twice")
    table = table.astype({"label": "int64"})
    _refuse(table, table.groupby("patient")["label"].transform("nunique") > 1, "patients whose labels differ")
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
    """Check predictions, and that every row's split is that of its patient in the member's fold.

    Validation rows must be about the fold's validation patients, test rows about the hold-out, training rows about
    neither; a member with validation rows must have one for every validation patient of its fold.

    Args:
        folds: the validation patients of each fold.
        test: the patients held out from all folds.

    Raises:
        RlvoError: as `check_predictions`, or a row breaks these rules; names up to five.
    """
    table = check_predictions(predictions)
    _refuse(table, ~table["fold"].between(0, len(folds) - 1), f"folds other than 0 to {len(folds) - 1}")
    part = {(patient, k): "validation" for k, fold in enumerate(folds) for patient in fold}
    held_out, known = set(test), {patient for patient, _ in part}
    _refuse(table, ~table["patient"].isin(known | held_out), "patients that are in no fold and not in the hold-out")
    pairs = zip(table["patient"], table["fold"], strict=True)
    due = ["test" if patient in held_out else part.get((patient, fold), "train") for patient, fold in pairs]
    _refuse(table, table["split"] != pd.Series(due, table.index, "str"), "rows of another split than their patient's")
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


def write_predictions(predictions: pd.DataFrame, path: Path) -> None:
    """Check and write as CSV, atomically; every float reads back as itself."""
    atomic_write(path, csv_text(check_predictions(predictions)))


def rename_patients(path: Path, name: Callable[[str], str]) -> str:
    """The text of a file that `write_predictions` wrote, with another name for every patient; nothing else is checked.

    Args:
        name: gives a patient's other name.

    Raises:
        RlvoError: the columns are others.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        if tuple(next(rows, ())) != COLUMNS:
            raise RlvoError("this is not a table of predictions", where=path)
        named = [[name(unescape_formula(patient)), *others] for patient, *others in rows]
    renamed = io.StringIO()
    writer = csv.writer(renamed, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(named)
    return renamed.getvalue()


TEXT = {"patient": "str", "member": "str", "split": "str"}


def read_all_predictions(paths: Sequence[Path]) -> tuple[list[pd.DataFrame], dict[Path, RlvoError]]:
    """Read and check many files: tables that hold what is sound, in order; and why each other file is refused.

    Files that are all as `write_predictions` writes them are read at once, in a tenth of the time.
    """
    if not paths:
        return [], {}
    try:
        first, *others = (path.read_bytes().partition(b"\n") for path in paths)
        if {other[0] for other in others} <= {first[0]}:
            whole = io.BytesIO(b"\n".join([first[0], b"".join(rows for *_, rows in (first, *others))]))
            return [check_predictions(read_csv(whole, TEXT))], {}
    except (FileNotFoundError, ValueError, RlvoError):
        pass  # which one is it?
    tables, refused = [], {}
    for path in paths:
        try:
            tables.append(read_predictions(path))
        except RlvoError as error:
            refused[path] = error
    return tables, refused


def read_predictions(path: Path) -> pd.DataFrame:
    """Read and check predictions. Raises RlvoError if the file is missing or does not hold such a table."""
    try:
        return check_predictions(read_csv(path, TEXT))
    except FileNotFoundError:
        raise RlvoError("there is no such file", where=path) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise RlvoError(f"this is not a table of predictions ({error})", where=path) from None
    except RlvoError as error:
        raise RlvoError(error.what, where=path, fix=error.fix) from None
