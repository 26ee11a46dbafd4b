"""Predictions: the one table that everything after training reads."""

from __future__ import annotations

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
        rows = [f"{row.patient} ({row.member})" for row in table[wrong].head(5).itertuples()]
        more = f" and {wrong.sum() - 5} more" if wrong.sum() > 5 else ""
        raise RlvoError(f"{what}: {', '.join(rows)}{more}", where="predictions")


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
