"""A registered model's answers to the rows of a table, one by one; those it gave before are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import Model

from rlvo.cohort.cells import DECIMAL_COMMA
from rlvo.cohort.reading import examine_table
from rlvo.cohort.variables import VARIABLES
from rlvo.errors import CohortError
from rlvo.files import atomic_write, file_sha256
from rlvo.imaging.reading import split_series
from rlvo.registry.model import MANIFEST
from rlvo.registry.process import ModelProcess

COUNTS = ("rlvo", "votes", "folds")


def taken_columns(model: Path) -> tuple[str, ...]:
    """The columns a model looks at, as its signature has them."""
    return tuple(Model.load(str(model)).get_input_schema().input_names())


def answer_rows(
    model: Path,
    cells: pd.DataFrame,
    folder: Path,
    *,
    decimal_comma: bool = False,
    kept: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    **params: Any,
) -> pd.DataFrame:
    """Ask the model, in a process of its own, about every row.

    Args:
        model: a verified MLflow model folder.
        cells: of a cohort table (`rlvo.cohort.tables.RawTable`); columns the model does not look at stay here.
        folder: what relative volume paths are relative to.
        decimal_comma: "70,5" is a number.
        kept: a file that answers are added to as they come and taken from, where model, parameters, row and volume
            files (names, sizes, times) are the same; a patient who could not be answered for is asked about again.
        progress: called with (rows done, rows in all).
        params: of the model's `predict`.

    Returns:
        The model's answers, a row a patient in the table's order.

    Raises:
        CohortError: patient ids that are missing or occur twice, or cells that cannot be told apart from others.
        MachineError: the model failed; what it answered before is kept.
    """
    cells = cells[[name for name in taken_columns(model) if name in cells]]
    _check(cells, decimal_comma)
    rows = [{str(name): cell for name, cell in row.items()} for row in cells.to_dict("records")]
    if decimal_comma:
        rows = [_pointed(row) for row in rows]
    asked = [_key(model, row, folder, params) for row in rows]
    answers = _read(kept) if kept is not None else {}
    waiting = [position for position, key in enumerate(asked) if key not in answers]
    if progress is not None:
        progress(len(rows) - len(waiting), len(rows))
    if waiting:
        with ModelProcess(model) as process:
            for done, position in enumerate(waiting, len(rows) - len(waiting) + 1):
                answer = process.answer(rows[position], folder=str(folder), **params)
                answers[asked[position]] = answer
                if kept is not None and answer["rlvo"] is not None:
                    with kept.open("a") as file:
                        file.write(json.dumps({"key": asked[position], "answer": answer}) + "\n")
                if progress is not None:
                    progress(done, len(rows))
    table = pd.DataFrame([answers[key] for key in asked])
    return table.astype(dict.fromkeys(COUNTS, "Int64"))


def _check(cells: pd.DataFrame, decimal_comma: bool) -> None:
    """What only the whole table shows."""
    findings = examine_table(cells, decimal_comma=decimal_comma)[1]
    if unusable := [finding for finding in findings if finding.patient is None or finding.field == "patient_id"]:
        raise CohortError(unusable)


def _pointed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Decimal commas as points: the model reads one row and cannot know."""

    def pointed(name: str, cell: Any) -> Any:
        is_number = isinstance(cell, str) and name in VARIABLES and VARIABLES[name].kind == "continuous"
        return cell.strip().replace(",", ".") if is_number and DECIMAL_COMMA.fullmatch(cell.strip()) else cell

    return {name: pointed(name, cell) for name, cell in row.items()}


def _key(model: Path, row: Mapping[str, Any], folder: Path, params: Mapping[str, Any]) -> str:
    volumes = [
        _state(folder / str(cell).strip())
        for name, cell in row.items()
        if VARIABLES[name].role == "image" and not pd.isna(cell)
    ]
    said = {name: None if pd.isna(cell) else str(cell) for name, cell in row.items()}
    content = [file_sha256(model / MANIFEST), said, volumes, dict(params)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _state(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of every file a path means; nothing where there is none."""
    place, _ = split_series(path)
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]


def _read(kept: Path) -> dict[str, dict[str, Any]]:
    """Answers by key. A last line that a death cut short is dropped from the file."""
    if not kept.exists():
        return {}
    *lines, torn = kept.read_text().split("\n")
    if torn:
        atomic_write(kept, "".join(f"{line}\n" for line in lines))
    return {said["key"]: said["answer"] for said in map(json.loads, lines)}
