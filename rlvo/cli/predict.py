"""`rlvo predict` and `rlvo serve`: a registered model's answers for new patients."""

import json as json_module
import os
from contextlib import suppress
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
)
from rlvo.config.workdir import DEFAULT
from rlvo.errors import CohortError, MachineError, RlvoError
from rlvo.files import atomic_write, csv_text, file_sha256, writing
from rlvo.report.console import print_json, print_line, show_progress, show_working

CHILD = """
import importlib.util, json, pathlib, sys, mlflow.pyfunc
arguments = json.loads(sys.stdin.readline())
model_folder, *files = sys.argv[1:]
try:
    model = mlflow.pyfunc.load_model(model_folder)
except Exception as error:
    sys.exit(f"error: {error}")
for file in files:
    name = f"rlvo.registry.{pathlib.Path(file).stem}"
    found = importlib.util.spec_from_file_location(name, file)
    sys.modules[name] = ours = importlib.util.module_from_spec(found)
    found.loader.exec_module(ours)
ours.serve(model, **arguments)
"""
"""What the server's process runs: all of rlvo in it is the model's own, but for the server, whose checks are ours.

What it is told comes by standard input, as a list of processes shows the command line.
"""
PARTS = ("connection", "served_model", "answering", "server")
SERVER = [Path(__file__).parents[1] / "registry" / f"{name}.py" for name in PARTS]
MIN_TOKEN = 32
"""Characters of a token, so that none is guessed."""


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
    from rlvo.workflows.answers import check_model, check_source, load_model, pose_question, read_patients, unanswered
    from rlvo.workflows.structured_reports import make_report_folder, write_structured_reports

    names = column_mapping(columns)
    check_model(model, workdir, ungated=ungated)
    check_source(patients, clinical, names)
    found = load_model(model, workdir, ungated=ungated)
    raw, folder, notes = read_patients(patients, clinical, names, found.own)
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
    host: Annotated[
        str,
        typer.Option("--host", help="Address to listen on; others than this machine's own need a token or a proxy."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8080,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="File (mode 0600) of the token that callers must send as a bearer token."),
    ] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="Something in front of the server lets in only those who may ask.")
    ] = False,
    audit: Annotated[
        Path | None, typer.Option("--audit", help="Append what was asked and answered, by pseudonym, to this file.")
    ] = None,
    max_bytes: Annotated[int, typer.Option("--max-bytes", min=1, help="Largest request, in bytes.")] = 1_000_000,
    max_rows: Annotated[int, typer.Option("--max-rows", min=1, help="Patients of the largest request.")] = 100,
    ungated: UngatedOption = False,
    workdir: WorkdirOption = Path(DEFAULT),
) -> None:
    """Answer requests over HTTP, on this machine only by default; Ctrl-C ends it.

    POST JSON (dataframe_records or dataframe_split, with params) to /invocations; volume paths are relative to the
    data root. The code that was registered with the model answers. /ready says whether it can, /metrics is for
    Prometheus.

    Example: rlvo serve rlvo-ensemble@champion --data-root /data/incoming --audit audit.jsonl
    """
    root = data_root.expanduser().resolve()
    if not root.is_dir():
        raise RlvoError("no such folder", where=data_root, fix="Name the folder of the volumes with --data-root")
    token = _read_token(token_file) if token_file is not None else None
    _check_host(host, is_guarded=token is not None or behind_proxy)
    record = audit.expanduser().resolve() if audit is not None else None
    if record is not None:
        _check_writable(record)
    with show_working("checking the model"):
        from rlvo.registry.model import MANIFEST
        from rlvo.registry.process import plain_path, start_interpreter
        from rlvo.workflows.answers import load_model

        served = load_model(model, workdir, ungated=ungated).admitted
    arguments = {
        "version": {"model": model, "manifest": file_sha256(served.folder / MANIFEST)},
        "host": host,
        "port": port,
        "max_bytes": max_bytes,
        "max_rows": max_rows,
        "token": token,
        "audit": record and str(record),
        "caution": served.caution,
    }
    print_line(NOTICE)
    if served.caution:
        print_line(f"warning: {served.caution}")
    print_line("the server starts, which takes some seconds ...")
    # The server ends when its standard input does, even if this process is killed.
    with (
        plain_path(served.folder) as folder,
        start_interpreter(CHILD, str(folder), *map(str, SERVER), environment={"RLVO_DATA_ROOT": str(root)}) as process,
    ):
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):  # it has ended already, and said why
                process.stdin.write(f"{json_module.dumps(arguments)}\n".encode())
                process.stdin.flush()
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


def _read_token(file: Path) -> str:
    """The token in a file that nobody else reads."""
    fix = "Make one: openssl rand -hex 32 > FILE; chmod 600 FILE"
    try:
        mode, token = file.expanduser().stat().st_mode, file.expanduser().read_text(encoding="latin-1").strip()
    except OSError as error:
        raise RlvoError(f"cannot be read ({error.strerror})", where=file, fix=fix) from None
    if mode & 0o077:
        raise RlvoError("others than its owner may read or write the token", where=file, fix=f"chmod 600 {file}")
    if len(token) < MIN_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise RlvoError(f"not a token: at least {MIN_TOKEN} letters and digits on one line", where=file, fix=fix)
    return token


def _check_host(host: str, *, is_guarded: bool) -> None:
    from rlvo.registry.connection import is_local

    if not is_local(host) and not is_guarded:
        what = "other machines reach this address, and anyone on them could ask"
        fix = "Give --token-file FILE, or --behind-proxy if something in front lets in only those who may ask"
        raise RlvoError(what, where=f"--host {host}", fix=fix)
