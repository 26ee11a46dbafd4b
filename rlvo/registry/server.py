"""MLflow's scoring server for one verified model: small JSON requests, one-line errors, an audit file.

`rlvo serve` loads this file into a process in which the rest of rlvo is the model's own, whichever version that is: it
imports only what every version has.
"""

import hashlib
import hmac
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, cast

import pandas as pd
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR
from mlflow.pyfunc import PyFuncModel, scoring_server
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rlvo.cohort.pseudonym import cohort_key, pseudonym
from rlvo.errors import RlvoError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CONCEALED = ("patient_id", "warnings", "notice")
"""Columns of an answer that the audit leaves out: ids, text that may name files, and the constant notice."""

Cell = str | float | int | bool | None


class Split(BaseModel):
    """A table as pandas writes it with `orient="split"`."""

    columns: list[str]
    data: list[list[Cell]]
    index: list[int | str] | None = None

    @model_validator(mode="after")
    def _rectangular(self) -> Self:
        if any(len(row) != len(self.columns) for row in self.data):
            raise ValueError("a row has more or fewer cells than there are columns")
        return self


class Params(BaseModel):
    """The parameters of the model's `predict` that a request may set."""

    model_config = ConfigDict(extra="forbid")

    folder: str = "."
    """A folder below the data root that volume paths are relative to."""
    members: bool = False
    precision: str = "float32"


class Question(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid")

    dataframe_records: list[dict[str, Cell]] | None = None
    dataframe_split: Split | None = None
    params: Params | None = None

    @model_validator(mode="after")
    def _one_table(self) -> Self:
        if (self.dataframe_records is None) == (self.dataframe_split is None):
            raise ValueError("give one of dataframe_records and dataframe_split")
        return self


@dataclass(frozen=True)
class Audit:
    """An append-only file of JSON lines (mode 0600). It names patients by pseudonym and holds no path."""

    path: Path
    version: Mapping[str, str]
    """Name and manifest digest of the model that answers."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def record(self, asked: pd.DataFrame, answers: pd.DataFrame) -> None:
        """Append one line per patient: which cells were given, a keyed hash of the row, and the answer."""
        key = cohort_key(self.path.parent)
        shown = answers.drop(columns=[name for name in CONCEALED if name in answers]).astype(object)
        lines = []
        for row, (_, answer) in enumerate(shown.where(shown.notna(), None).iterrows()):
            cells = {str(name): None if pd.isna(cell) else str(cell) for name, cell in asked.iloc[row].items()}
            line = {
                "patient": pseudonym(str(answers["patient_id"].iloc[row]), key),
                "given": sorted(name for name, cell in cells.items() if cell is not None),
                "row": hmac.new(key, json.dumps(cells, sort_keys=True).encode(), hashlib.sha256).hexdigest(),
                "answer": answer.to_dict(),
                "warned": bool(answers["warnings"].iloc[row]),
            }
            lines.append(line)
        self.write(*lines)

    def write(self, *lines: Mapping[str, Any]) -> None:
        """Append lines, each with the time and the model: all of them or none."""
        about = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **self.version}
        text = "".join(f"{json.dumps({**about, **line})}\n" for line in lines)
        with self._lock:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(text)


@dataclass(frozen=True)
class ServedModel:
    """A loaded model whose answers say what they must, and are recorded before they are given."""

    model: PyFuncModel
    caution: str | None
    """What the warnings of every answer begin with."""
    audit: Audit | None

    @property
    def metadata(self) -> Any:
        """The model's metadata, from which the scoring server takes the signature."""
        return self.model.metadata

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Answer as the model does. Raises MlflowException (500) if the audit cannot be written."""
        answers = self.model.predict(data, params=params)
        assert isinstance(answers, pd.DataFrame)
        if self.caution is not None:
            answers["warnings"] = ["; ".join(filter(None, (self.caution, each))) for each in answers["warnings"]]
        try:
            if self.audit is not None:
                self.audit.record(data, answers)
        except (OSError, RlvoError):
            raise MlflowException("the audit cannot be written", error_code=INTERNAL_ERROR) from None
        return answers


class BodyTooLargeError(Exception):
    """More bytes of a request's body have come than are allowed."""


@dataclass(frozen=True)
class BodyLimit:
    """Counts the bytes of every request's body as they come, whatever its headers say."""

    app: ASGIApp
    max_bytes: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; whoever reads more of its body than is allowed gets BodyTooLargeError."""
        read = 0

        async def receive_counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.max_bytes:
                raise BodyTooLargeError
            return message

        await self.app(scope, receive_counted, send)


def serve(
    model: PyFuncModel,
    *,
    version: Mapping[str, str],
    host: str,
    port: int,
    max_bytes: int,
    audit: str | None,
    caution: str | None,
) -> None:
    """Serve until standard input ends. Prints one line, the address.

    Args:
        version: the model's name and the digest of its manifest, for the audit.
        port: 0 means any free port.
        max_bytes: size of the largest request that is accepted.
        audit: file to append to; None: there is no audit.
        caution: what the warnings of every answer begin with; None: nothing.
    """
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it comments on single requests
    record = Audit(Path(audit), version) if audit else None
    served = cast(PyFuncModel, ServedModel(model, caution, record))
    app = add_guard(scoring_server.init(served), max_bytes, record)
    if host in LOOPBACK:  # a web page must not reach a local server through a host name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    parser: dict[str, Any] = {"http": "h11", "ws": "none"}  # the same on every machine
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, **parser)
    server = uvicorn.Server(config)
    try:
        opened = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        print(f"error: {host}:{port}: {error.strerror}. Choose another --port or --host", file=sys.stderr)
        sys.exit(RlvoError.exit_code)

    def stop_with_parent() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=stop_with_parent, daemon=True).start()
    address = f"[{host}]" if ":" in host else host
    print(f"http://{address}:{opened.getsockname()[1]}", flush=True)
    with suppress(KeyboardInterrupt):
        server.run(sockets=[opened])


def add_guard(app: FastAPI, max_bytes: int, audit: Audit | None) -> FastAPI:
    """Check requests before MLflow's scoring server gets them, shorten its errors to one line, record refusals."""

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[StreamingResponse]]) -> Response:
        refused = await check_request(request, max_bytes)
        if refused is None:
            response = await call_next(request)
            if response.status_code < 400:
                return response
            content = b"".join([bytes(chunk) async for chunk in response.body_iterator])  # type: ignore[arg-type]
            refused = response.status_code, _one_line(content)
        status, why = refused
        if audit is not None:
            audit.write({"refused": status})
        # Where a body ends that comes in chunks is the client's word: what follows is not taken for another request.
        ending = {"Connection": "close"} if "transfer-encoding" in request.headers else None
        return JSONResponse({"error": why}, status, ending)

    app.add_middleware(BodyLimit, max_bytes=max_bytes)
    return app


async def check_request(request: Request, max_bytes: int) -> tuple[int, str] | None:
    """Status and reason for a request that must not reach the model; None for one that may."""
    length, too_large = request.headers.get("content-length"), f"the request is larger than {max_bytes} bytes"
    if length is not None and "transfer-encoding" in request.headers:
        return 400, "the request states its length and comes in chunks, too"
    if request.method != "POST":
        return None
    if length is not None and int(length) > max_bytes:
        return 413, too_large
    try:
        body = await request.body()
    except BodyTooLargeError:
        return 413, too_large
    except ClientDisconnect:
        return 400, "the request ended before its body did"
    if length is None:
        return 411, "the request does not state its length"
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return 415, "send application/json"
    try:
        Question.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where, what = ".".join(map(str, first["loc"][:3])), first["msg"].removeprefix("Value error, ")
        return 400, f"{where}: {what}" if where else what
    return None


def _one_line(content: bytes) -> str:
    """The message of an error without MLflow's echo of the request and its stack trace."""
    try:
        error = json.loads(content)
        text = str(error.get("message") or error.get("detail") or "refused")
    except ValueError:
        text = content.decode(errors="replace")
    return " ".join(text.rpartition("Error: ")[2].split())
