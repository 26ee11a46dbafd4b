"""`rlvo init` and `rlvo schema`: a first study file for a cohort, and what a study file may hold."""

import os
from pathlib import Path
from typing import Annotated

import typer

from rlvo.cli.cohort import CohortArgument, MapOption
from rlvo.cli.common import ColumnsOption, JsonOption, column_mapping, writable_file
from rlvo.config.commands import command_line
from rlvo.files import writing
from rlvo.report.console import print_json, print_line


def init(
    cohort: CohortArgument,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The study file to write (YAML).", callback=writable_file)
    ] = Path("study.yaml"),
    map: MapOption = None,
    columns: ColumnsOption = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster that will train, e.g. auto or head:6379; default RAY_ADDRESS, else this one."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file of this name.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a first study for a cohort table: a commented file that 'rlvo plan' and 'rlvo search' take as it is.

    It names the predictors that the table has, folds that the number of patients with rLVO allows, a grid and network
    for this machine or cluster, and what to compare first with so many patients; its comments say why. The schema by
    which editors complete and check it is written beside it.

    Example: rlvo init cohort.csv -o study.yaml --map age=Edad
    """
    from rlvo.config.loading import load_study
    from rlvo.config.reference import SCHEMA_FILE, schema_text
    from rlvo.files import atomic_write
    from rlvo.workflows.first_study import Machine, check_target, propose_study

    check_target(out, force=force)
    address = address or os.environ.get("RAY_ADDRESS")
    machine = Machine.at(address) if address else Machine.here()
    proposed = propose_study(cohort, out, machine, column_mapping(columns, map))
    with writing(out):
        atomic_write(out, proposed.text)
        atomic_write(out.parent / SCHEMA_FILE, schema_text())
    study = load_study(out)
    commands = [command_line(name, out) for name in ("plan", "search")]
    if json:
        print_json(
            {
                "study": study.name,
                "file": out,
                "predictors": study.cohort.predictors,
                "notes": proposed.notes,
                "next": commands,
            }
        )
        return
    for note in proposed.notes:
        print_line(note)
    print_line(f"wrote {out}: {study.configurations} configurations × {study.folds.folds} folds, on {machine}")
    for command in commands:
        print_line(f"next: {command}")


def schema(
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="File to write; one that ends in .md gets every field in words instead.",
            callback=writable_file,
        ),
    ] = None,
) -> None:
    """The JSON schema of a study file, by which editors complete and check it.

    The first line of a study names it: # yaml-language-server: $schema=study.schema.json

    Example: rlvo schema -o study.schema.json
    """
    from rlvo.config.reference import reference_page, schema_text, study_schema
    from rlvo.files import atomic_write

    if out is None:
        print_json(study_schema())
        return
    with writing(out):
        atomic_write(out, reference_page() if out.suffix == ".md" else schema_text())
    print_line(f"wrote {out}")
