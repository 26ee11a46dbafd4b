"""`rlvo predict`: a registered model's answers for new patients."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlvo import NOTICE
from rlvo.cli.common import JsonOption, WorkdirOption, console, emit_json, progress_bar
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import CohortError, Finding, RlvoError
from rlvo.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd


def predict(
    model: Annotated[str, typer.Argument(help="Registered model (rlvo-ensemble@champion) or model folder.")],
    table: Annotated[Path, typer.Argument(help="Cohort table: CSV, TSV or XLSX; volumes relative to it.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="CSV to write, a row a patient.")] = None,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Answer for the patients of a table, from raw volumes.

    Who cannot be answered for is named and does not hold up the others; the exit code is then 2.

    Example: rlvo predict rlvo-ensemble@champion patients.csv -o answers.csv
    """
    if output is None and not json:
        raise RlvoError("nowhere to write the answers", fix="Give -o OUT.csv, or --json")
    from rlvo.cohort.tables import read_table
    from rlvo.cohort.variables import source_columns
    from rlvo.registry.inference import EnsemblePredictor
    from rlvo.registry.location import locate_model

    raw = read_table(table)
    predictor = EnsemblePredictor.load(locate_model(model, Workdir(workdir.expanduser().resolve()).tracking_uri()))
    needed = source_columns(predictor.members.description.predictors)
    if absent := [column for column in needed if column not in raw.cells]:
        _say(f"no column {', '.join(absent)}: imputed as in training, for every patient")
    with progress_bar("patients") as progress:
        answers = predictor.predict(
            raw.cells, table.resolve().parent, decimal_comma=raw.decimal_comma, progress=progress
        )
    if output is not None:
        atomic_write(output.expanduser().resolve(), answers.to_csv(index=False))
        _say(f"wrote {output}: {len(answers)} patients, {int(answers['rlvo'].sum())} with an alert")
    if json:
        emit_json(json_module.loads(answers.to_json(orient="records", double_precision=15)))
    _say(NOTICE)
    if unanswered := _unanswered(answers):
        raise CohortError(unanswered, where=table)


def _unanswered(answers: pd.DataFrame) -> list[Finding]:
    """A finding for every patient without an answer; the reason is the last of the warnings."""
    from rlvo.registry.inference import NOT_ANSWERED

    without = answers[answers["rlvo"].isna()]
    return [
        Finding(str(row.patient_id), None, NOT_ANSWERED + str(row.warnings).rpartition(NOT_ANSWERED)[2])
        for row in without.itertuples()
    ]


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
