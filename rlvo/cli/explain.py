"""`rlvo explain`: a registered model's answer for one patient, and why, on a page."""

from pathlib import Path
from typing import Annotated

import typer

from rlvo.about import NOTICE
from rlvo.cli.common import (
    ColumnsOption,
    JsonOption,
    ModelArgument,
    UngatedOption,
    WorkdirOption,
    column_mapping,
    print_notes,
    writable_file,
)
from rlvo.config.workdir import DEFAULT
from rlvo.files import writing
from rlvo.report.console import print_json, print_line, show_progress


def explain(
    model: ModelArgument,
    patients: Annotated[
        Path, typer.Argument(help="Cohort table, or a folder that holds one folder per patient, as for 'rlvo predict'.")
    ],
    patient: Annotated[str, typer.Option("--patient", help="The patient's id.")],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="The page to write; files go into a folder beside it.", callback=writable_file
        ),
    ] = Path("explanation.html"),
    clinical: Annotated[
        Path | None, typer.Option("--clinical", help="With a folder of patients: the table of their other columns.")
    ] = None,
    columns: ColumnsOption = None,
    checks: Annotated[
        bool, typer.Option("--checks/--no-checks", help="Check the saliency maps, which takes most of the time.")
    ] = True,
    ungated: UngatedOption = False,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Answer for one patient and say why, with the code that was registered with the model.

    One self-contained page: the answer, how the folds voted, where the image speaks for it, what each value of the
    table adds, and where the values lie among the training patients'. Saliency maps (NIfTI), tables and pictures are
    written beside it. The page names the patient; nothing reaches MLflow or a log.

    Example: rlvo explain rlvo-ensemble@champion patients.csv --patient A-17 -o A-17.html
    """
    from rlvo.workflows.answers import check_model, check_source, load_model, read_patients
    from rlvo.workflows.explanation import check_page, explain_patient

    check_page(out)
    names = column_mapping(columns)
    check_model(model, workdir, ungated=ungated)
    check_source(patients, clinical, names)
    found = load_model(model, workdir, ungated=ungated)
    raw, folder, notes = read_patients(patients, clinical, names, found.own)
    print_notes(notes)
    explained = explain_patient(
        found.admitted, raw, folder, patient, work=found.work, check=checks, progress=show_progress
    )
    with writing(out):
        files = explained.write(out)
    answer, facts = explained.answer, explained.explanation.facts
    if json:
        checked = {which: check.figures | {"failures": check.failures} for which, check in facts.checks.items()}
        print_json(
            {
                "answer": answer,
                "ensemble": facts.ensemble,
                "warnings": explained.warnings,
                "votes": explained.votes.to_dict("records"),
                "typical_score": facts.typical_score,
                "values": explained.values.to_dict("records"),
                "checks": checked,
                "page": out,
                "files": files,
                "notice": NOTICE,
            }
        )
        return
    for warning in explained.warnings:
        print_line(f"warning: {warning}")
    said = "alert" if answer["rlvo"] else "no alert"
    print_line(f"patient {patient}: {said}, {answer['votes']} of {answer['folds']} folds, score {answer['score']:+.3f}")
    print_line(f"page: {out}")
    print_line(f"maps, tables and pictures: {out.with_name(out.stem + '_files')} ({len(files)} files)")
    print_line(NOTICE)
