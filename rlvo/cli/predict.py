"""`rlvo predict`: a registered model's answers for new patients."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlvo import NOTICE
from rlvo.cli.common import JsonOption, WorkdirOption, emit_json, progress_bar, say
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import CohortError, Finding, RlvoError
from rlvo.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd

    from rlvo.cohort.tables import RawTable


def predict(
    model: Annotated[str, typer.Argument(help="Registered model (rlvo-ensemble@champion) or its folder.")],
    patients: Annotated[
        Path,
        typer.Argument(
            help="Cohort table (CSV, TSV or XLSX; volumes relative to it), or a folder that holds a folder a patient "
            "with ncct*, cta* and vessels* in it."
        ),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="CSV to write, a row a patient.")] = None,
    clinical: Annotated[
        Path | None, typer.Option("--clinical", help="With a folder of patients: the table of their other columns.")
    ] = None,
    members: Annotated[bool, typer.Option("--members", help="Add the probability of every member.")] = False,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Answer for new patients, from raw volumes, with the code that was registered with the model.

    Who cannot be answered for is named and does not hold up the others; the exit code is then 2. Answers are kept in
    OUT.answered.jsonl as they come: run again, it goes on, and asks again about those that changed.

    Example: rlvo predict rlvo-ensemble@champion patients.csv -o answers.csv
    """
    if output is None and not json:
        raise RlvoError("nowhere to write the answers", fix="Give -o OUT.csv, or --json")
    from rlvo.registry.answering import answer_rows, taken_columns
    from rlvo.registry.location import locate_model

    raw, folder = _table(patients, clinical)
    root = locate_model(model, Workdir(workdir.expanduser().resolve()).tracking_uri())
    absent = [name for name in taken_columns(root) if name not in (*raw.cells, "ncct", "cta", "vessels")]
    if absent:
        say(f"no column {', '.join(absent)}: missing for every patient")
    for warning in shift_of(root, raw):
        say(f"warning: {warning}")
    out = output.expanduser().resolve() if output is not None else None
    with progress_bar("patients") as progress:
        answers = answer_rows(
            root,
            raw.cells,
            folder,
            decimal_comma=raw.decimal_comma,
            kept=out.with_name(f"{out.name}.answered.jsonl") if out is not None else None,
            progress=progress,
            members=members,
        )
    if out is not None:
        atomic_write(out, answers.to_csv(index=False))
        say(f"wrote {output}: {len(answers)} patients, {int(answers['rlvo'].sum())} with an alert")
    if json:
        emit_json(json_module.loads(answers.to_json(orient="records", double_precision=15)))
    say(NOTICE)
    if unanswered := _unanswered(answers):
        raise CohortError(unanswered, where=patients)


def _table(patients: Path, clinical: Path | None) -> tuple[RawTable, Path]:
    """The table, and what its paths are relative to."""
    from rlvo.cohort.tables import read_table

    if not patients.is_dir():
        if clinical is not None:
            raise RlvoError("only a folder of patients takes a clinical table", where=patients, fix="Leave it out")
        return read_table(patients), patients.resolve().parent
    from rlvo.registry.patient_folders import read_patient_folders

    raw, notes = read_patient_folders(patients, read_table(clinical) if clinical is not None else None)
    for note in notes:
        say(note)
    return raw, patients.resolve()


def shift_of(root: Path, raw: RawTable) -> list[str]:
    """How the patients differ from those the model was trained on."""
    from rlvo.registry.cohort_summary import shift_warnings
    from rlvo.registry.folder import read_description
    from rlvo.registry.location import ARTIFACT

    try:
        summary = read_description(root / "artifacts" / ARTIFACT).cohort
    except RlvoError:
        return ["the model is of another rlvo, which cannot compare these patients with those it was trained on"]
    return shift_warnings(summary, raw.cells, decimal_comma=raw.decimal_comma) if summary is not None else []


def _unanswered(answers: pd.DataFrame) -> list[Finding]:
    """A finding for every patient without an answer; the reason is the last of the warnings."""
    from rlvo.registry.patients import NOT_ANSWERED

    without = answers[answers["rlvo"].isna()]
    return [
        Finding(str(row.patient_id), None, NOT_ANSWERED + str(row.warnings).rpartition(NOT_ANSWERED)[2])
        for row in without.itertuples()
    ]
