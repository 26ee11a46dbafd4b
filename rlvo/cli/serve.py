"""`rlvo serve`: a registered model behind MLflow's scoring server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from rlvo import NOTICE
from rlvo.cli.common import WorkdirOption, say
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import MachineError, RlvoError
from rlvo.files import file_sha256

CHILD = """
import json, sys, mlflow.pyfunc
try:
    model = mlflow.pyfunc.load_model(sys.argv[1])
except Exception as error:
    sys.exit(f"error: {error}")
from rlvo.registry.server import serve
serve(model, **json.loads(sys.argv[2]))
"""
"""What the server's process runs: all of rlvo in it is the model's own."""
REQUEST_SECONDS = 3600
"""A request waits for those before it, and preparing raw volumes takes its time."""


def serve(
    model: Annotated[str, typer.Argument(help="Registered model (rlvo-ensemble@champion) or its folder.")],
    data_root: Annotated[Path, typer.Option("--data-root", help="Volumes are read below this folder only.")],
    host: Annotated[str, typer.Option("--host", help="Address to listen on; there is no password.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8080,
    audit: Annotated[
        Path | None, typer.Option("--audit", help="Append what was asked and answered, by pseudonym, to this file.")
    ] = None,
    max_bytes: Annotated[int, typer.Option("--max-bytes", min=1, help="Largest request.")] = 1_000_000,
    workdir: WorkdirOption = Path(DEFAULT),
) -> None:
    """Answer requests over HTTP, on this machine only by default; Ctrl-C ends it.

    POST JSON (dataframe_records or dataframe_split, with params) to /invocations; volume paths are relative to the
    data root. MLflow's scoring server runs with the code that was registered with the model.

    Example: rlvo serve rlvo-ensemble@champion --data-root /data/incoming --audit audit.jsonl
    """
    from rlvo.registry.location import locate_model
    from rlvo.registry.model import MANIFEST

    root = data_root.expanduser().resolve()
    if not root.is_dir():
        raise RlvoError("no such folder", where=data_root, fix="Name the folder of the volumes with --data-root")
    record = audit.expanduser().resolve() if audit is not None else None
    if record is not None:
        _check_writable(record)
    folder = locate_model(model, Workdir(workdir.expanduser().resolve()).tracking_uri())
    version = {"model": model, "manifest": file_sha256(folder / MANIFEST)}
    arguments = {
        "version": version,
        "host": host,
        "port": port,
        "max_bytes": max_bytes,
        "audit": record and str(record),
    }
    environment = os.environ | {
        "RLVO_DATA_ROOT": str(root),
        "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": str(REQUEST_SECONDS),
        "PYTHONDONTWRITEBYTECODE": "1",  # compiled files would count as added to the model
    }
    say(NOTICE)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # The server ends when its standard input does: also where this process is killed.
    with subprocess.Popen(
        [sys.executable, "-P", "-c", CHILD, str(folder), json.dumps(arguments)],
        stdin=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    ) as process:
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
