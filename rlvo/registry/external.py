"""A registered model on a cohort it was not made from: who of it counts, and the model's answers to them.

The model answers in a process of its own and is given what it takes, never an outcome; labels stay here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from rlvo.cohort.label import rlvo_label
from rlvo.cohort.reading import read_cohort
from rlvo.cohort.selection import Selection, select
from rlvo.cohort.tables import RawTable, read_table
from rlvo.cohort.variables import VARIABLES
from rlvo.errors import RlvoError
from rlvo.registry.answering import answer_rows, taken_columns
from rlvo.registry.folder import DESCRIPTION
from rlvo.registry.location import ARTIFACT_PATH

GIVEN = ("id", "image", "predictor")
"""Roles of the columns that a model may be given."""


@dataclass(frozen=True, eq=False)
class ExternalCohort:
    """Another cohort, checked; who is included, with their labels."""

    path: Path
    table: pd.DataFrame
    """The included patients' rows, checked; index patient id."""
    label: pd.Series
    """0 or 1 of each of them."""
    selection: Selection
    lacking: tuple[str, ...]
    """Columns that models take and the table does not have."""
    raw: RawTable
    """The included patients' cells as they were written, without outcomes."""


def read_external(path: Path, columns: Sequence[str]) -> ExternalCohort:
    """Read, check and select another cohort, as a study's own is (section 2.2, Fig. 1).

    Args:
        path: its table.
        columns: what the models take; those it lacks are missing for every patient.

    Raises:
        RlvoError: the table or cells of it are at fault, or nobody is included.
    """
    raw = read_table(path)
    wanted = [name for name in columns if name in VARIABLES and VARIABLES[name].role == "predictor"]
    cohort = read_cohort(path, [name for name in wanted if name in raw.cells])
    selection = select(cohort, wanted)
    if not selection.included:
        raise RlvoError("nobody is included", where=path, fix="'rlvo validate' shows who is excluded, and why")
    table = cohort.subset(selection.included).table
    given = [name for name in raw.cells if name in VARIABLES and VARIABLES[name].role in GIVEN]
    return ExternalCohort(
        path=path,
        table=table,
        label=rlvo_label(table),
        selection=selection,
        lacking=tuple(name for name in wanted if name not in raw.cells),
        raw=replace(raw, cells=raw.cells.loc[cohort.table.index.isin(selection.included), given]),
    )


def external_answers(
    model: Path, cohort: ExternalCohort, kept: Path, *, progress: Callable[[int, int], None] | None = None
) -> pd.DataFrame:
    """The model's answers to the included patients, index patient id, in the columns of a prediction.

    Args:
        model: a verified MLflow model folder.
        kept: file of answers given before, of this model and others, that is gone on with.
    """
    kept.parent.mkdir(parents=True, exist_ok=True)
    answers = answer_rows(
        model,
        cohort.raw.cells,
        cohort.path.resolve().parent,
        decimal_comma=cohort.raw.decimal_comma,
        kept=kept,
        progress=progress,
    )
    return answers.astype({"score": float, "probability": float}).set_index("patient_id")


def answers_folder(workdir: Path, cohort: Path) -> Path:
    """Where answers to this table's patients are kept in a work folder; they name patients, so they stay there."""
    place = hashlib.sha256(str(cohort.resolve()).encode()).hexdigest()[:8]
    return workdir / "external" / f"{cohort.stem}-{place}"


def models_columns(models: Sequence[Path]) -> tuple[str, ...]:
    """The columns that any of these MLflow model folders takes."""
    return tuple(dict.fromkeys(name for model in models for name in taken_columns(model)))


def split_of(model: Path) -> str:
    """Hash of the split that a model was made on; its description is read as it is, whichever rlvo wrote it."""
    description = json.loads((model / ARTIFACT_PATH / DESCRIPTION).read_bytes())
    return str(description["variants"][0]["spec"]["split_hash"])
