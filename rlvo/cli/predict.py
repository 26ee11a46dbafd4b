"""`rlvo predict` and `rlvo serve`: a registered model's answers for new patients."""

import json as json_module
import os
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
    writable_file,
    writable_folder,
    writing,
)
from rlvo.config.workdir import DEFAULT
from rlvo.errors import CohortError, MachineError, RlvoError
from rlvo.files import atomic_write, csv_text, file_sha256
from rlvo.report.console import print_json, print_line, show_progress, show_working

CHILD = """
import importlib.util, json, sys, mlflow.pyfunc
model_folder, arguments, server = sys.argv[1:]
try:
    model = mlflow.pyfunc.load_model(model_folder)
except Exception as error:
    sys.exit(f"error: {error}")
found = importlib.util.spec_from_file_location("server", server)
sys.modules["server"] = guard = importlib.util.module_from_spec(found)
found.loader.exec_module(guard)
guard.serve(model, **json.loads(arguments))
"""
"""What the server's process runs: all of rlvo in it is the model's own, but for the server, whose checks are ours."""
SERVER = Path(__file__).parents[1] / "registry" / "server.py"
REQUEST_SECONDS = 3600
"""A request waits for those before it, and preparing raw volumes takes time."""


def predict(
    model: ModelArgument,
    patients: Annotated[
        Path,
        typer.Argument(
            help="Cohort table (CSV, TSV or XLSX; volumes relative to it), or a folder that holds one folder per "
            "patient with ncct*, cta* and vessels* in it."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV to write, one row per patient.", callback=writable_file)
    ] = None,
    clinical: Annotated[
        Path | None, typer.Option("--clinical", help="With a folder of patients: the table of their other columns.")
    ] = None,
    columns: ColumnsOption = None,
    members: Annotated[bool, typer.Option("--members", help="Add the probability of every member.")] = False,
    sr: Annotated[
        Path | None,
        typer.Option(
            "--sr",
            help="Folder to write a DICOM Basic Text SR into for each answered patient, for a PACS.",
            callback=writable_folder,
        ),
    ] = None,
    ungated: UngatedOption = False,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Answer for new patients, from raw volumes, with the code that was registered with the model.

    Patients whom a study of the work folder holds out are refused: 'rlvo evaluate STUDY' asks about them, on record.
    Patients who cannot be scored are listed, and the others still are; the exit code is then 2. Answers are kept in
    OUT.answered.jsonl as they come: run again, it continues, and asks again about patients who changed.

    A structured report (--sr) has the patient and study of the DICOM volumes, and is unverified.

    Example: rlvo predict rlvo-ensemble@champion patients.csv -o answers.csv
    """
    if output is None and sr is None and not json:
        raise RlvoError("nowhere to write the answers", fix="Give -o OUT.csv, --sr FOLDER or --json")
    from rlvo.workflows.answers import check_model, load_model, pose_question, read_patients, unanswered
    from rlvo.workflows.structured_reports import make_report_folder, write_structured_reports

    names = column_mapping(columns)
    check_model(model, workdir, ungated=ungated)
    raw, folder, notes = read_patients(patients, clinical, names)
    found = load_model(model, workdir, ungated=ungated)
    question = pose_question(found.admitted, raw, folder, notes, work=found.work)
    for note in question.notes:
        print_line(note)
    if sr is not None:
        make_report_folder(sr)
    for warning in filter(None, (question.model.caution, *question.shifts)):
        print_line(f"warning: {warning}")
    out = output.expanduser().resolve() if output is not None else None
    kept = out.with_name(f"{out.name}.answered.jsonl") if out is not None else None
    answers = question.ask(kept=kept, progress=show_progress, members=members)
    if out is not None:
        atomic_write(out, csv_text(answers))
        lacking = f", {answers['rlvo'].isna().sum()} without an answer" if answers["rlvo"].isna().any() else ""
        print_line(f"wrote {output}: {len(answers)} patients, {int(answers['rlvo'].sum())} with an alert{lacking}")
    without = unanswered(answers)
    if sr is not None:
        with writing(sr):
            reports = write_structured_reports(question, answers, sr)
        print_line(f"{sr}: {reports}")
        without += reports.findings
    if json:
        print_json(json_module.loads(answers.to_json(orient="records", double_precision=15)))
    print_line(NOTICE)
    if without:
        raise CohortError(without, where=patients)


def serve(
    model: ModelArgument,
    data_root: Annotated[Path, typer.Option("--data-root", help="Volumes are read below this folder only.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen on; there is no password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8080,
    audit: Annotated[
        Path | None, typer.Option("--audit", help="Append what was asked and answered, by pseudonym, to this file.")
    ] = None,
    max_bytes: Annotated[int, typer.Option("--max-bytes", min=1, help="Largest request.")] = 1_000_000,
    ungated: UngatedOption = False,
    workdir: WorkdirOption = Path(DEFAULT),
) -> None:
    """Answer requests over HTTP, on this machine only by default; Ctrl-C ends it.

    POST JSON (dataframe_records or dataframe_split, with params) to /invocations; volume paths are relative to the
    data root. MLflow's scoring server runs with the code that was registered with the model.

    Example: rlvo serve rlvo-ensemble@champion --data-root /data/incoming --audit audit.jsonl
    """
    root = data_root.expanduser().resolve()
    if not root.is_dir():
        raise RlvoError("no such folder", where=data_root, fix="Name the folder of the volumes with --data-root")
    record = audit.expanduser().resolve() if audit is not None else None
    if record is not None:
        _check_writable(record)
    with show_working("checking the model"):
        from rlvo.registry.model import MANIFEST
        from rlvo.registry.process import start_interpreter
        from rlvo.workflows.answers import load_model

        served = load_model(model, workdir, ungated=ungated).admitted
    arguments = {
        "version": {"model": model, "manifest": file_sha256(served.folder / MANIFEST)},
        "host": host,
        "port": port,
        "max_bytes": max_bytes,
        "audit": record and str(record),
        "caution": served.caution,
    }
    environment = {"RLVO_DATA_ROOT": str(root), "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": str(REQUEST_SECONDS)}
    print_line(NOTICE)
    if served.caution:
        print_line(f"warning: {served.caution}")
    print_line("the server starts, which takes some seconds ...")
    given = (str(served.folder), json_module.dumps(arguments), str(SERVER))
    # The server ends when its standard input does, even if this process is killed.
    with start_interpreter(CHILD, *given, environment=environment) as process:
        assert process.stdin is not None
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.stdin.close()
            process.wait()
            return
    if code < 0:
        raise MachineError(f"the server was ended by signal {-code}", where=model)
    raise typer.Exit(code)  # it has said why


def _check_writable(audit: Path) -> None:
    from rlvo.cohort.pseudonym import cohort_key

    try:
        os.close(os.open(audit, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    except OSError as error:
        fix = "Name a file that can be written"
        raise RlvoError(f"cannot be written ({error.strerror})", where=audit, fix=fix) from None
    cohort_key(audit.parent)
