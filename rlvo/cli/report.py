"""`rlvo report`: one page about a study, with every table and figure as files."""

from pathlib import Path
from typing import Annotated

import typer

from rlvo.about import NOTICE
from rlvo.cli.common import JsonOption, StudyArgument, WorkdirOption, print_links, print_notes, writable_file
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.files import writing
from rlvo.report.console import print_json, print_line, show_progress


def report(
    study: StudyArgument,
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="The page to write; files go into a folder beside it.", callback=writable_file
        ),
    ] = Path("report.html"),
    explain: Annotated[
        bool,
        typer.Option(help="Look at the networks first: saliency, importance of variables. Later reports show it too."),
    ] = False,
    patient: Annotated[
        list[str] | None,
        typer.Option(help="Also a page about this development patient, by the networks not trained on it; repeatable."),
    ] = None,
    cohort: Annotated[Path | None, typer.Option(help="Its cohort table, if it was moved.")] = None,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Write one self-contained page about a study: patients, results, search, provenance.

    It shows what the hold-out showed if it was opened, and never opens it. Every table is a CSV file too, and every
    figure an SVG and a PNG of 300 dpi, in a folder beside the page. It names no patient; pages that --patient asks for
    do. If the study has an ensemble, MLflow shows the report among the artifacts of its run.

    Example: rlvo report demo -o report.html; rlvo report demo --patient synth-00003
    """
    from rlvo.workflows.ensemble_artifacts import REPORT, attach_report
    from rlvo.workflows.patient_pages import write_patient_pages
    from rlvo.workflows.report import write_report
    from rlvo.workflows.report_explanations import SECTIONS, explain_study
    from rlvo.workflows.study import open_searched_study, read_study, where_in_mlflow

    work = Workdir.at(workdir, create=False)
    pages = list[Path]()
    if explain or patient:
        searched = open_searched_study(study, work, cohort=cohort, progress=show_progress)
        with writing(out):
            folder = out.with_name(f"{out.stem}_patients")
            pages = write_patient_pages(searched, patient or [], folder, progress=show_progress)
        if explain:
            explain_study(searched, progress=show_progress)
    opened = read_study(study, work, cohort=cohort)
    print_notes(opened.inputs.notes)
    with writing(out):
        written = write_report(opened, out, progress=show_progress)
    is_attached = attach_report(opened, out)
    if json:
        print_json({"page": written.page, "files": written.files, "patients": pages, "notice": NOTICE})
        return
    print_line(f"report: {written.page}")
    print_line(
        f"tables and figures: {written.page.with_name(written.page.stem + '_files')} ({len(written.files)} files)"
    )
    for page in pages:
        print_line(f"patient: {page}")
    if is_attached and (links := where_in_mlflow(opened.work, opened.config)):
        print_links({"MLflow": links["MLflow"], f"ensembles, {REPORT} at the latest": links["ensembles"]})
    if not {section.anchor for section in written.sections} & {*SECTIONS}:
        print_line("where the networks look, and which variables matter to them: --explain (minutes)")
    print_line(NOTICE)
