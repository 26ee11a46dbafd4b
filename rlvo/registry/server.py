"""`rlvo serve`'s server: requests as MLflow's scoring server takes them, one-line errors, limits, an audit, metrics.

It is loaded with `connection` and `served_model` into a process in which the rest of rlvo is the model's own, whichever
version that is.
"""

import asyncio
import gc
import hmac
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, NoReturn

import uvicorn
from mlflow.pyfunc import PyFuncModel
from mlflow.version import VERSION
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    exposition,
)
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from rlvo.errors import RlvoError
from rlvo.registry.answering import Answer, ModelProcess, answer_all
from rlvo.registry.connection import Connection, is_local
from rlvo.registry.served_model import Audit, ServedModel

OPEN = ("/ping", "/health", "/ready")
"""What is answered without a token: whether the server lives, and whether it can answer."""
MOST_WAITING = 100
"""Requests that may wait for the model; each holds its table in memory."""
MAX_HEADER_BYTES = 16_384
GONE = 499
"""Status, which nobody gets, of a request whose caller left."""


class Metrics:
    """What `/metrics` says: counts and times, nothing about a patient."""

    def __init__(self, manifest: str, pid: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(pid=lambda: pid, registry=registry)
        Gauge("rlvo_model_info", "The served model.", ["manifest"], registry=registry).labels(manifest).set(1)
        self.requests = Counter("rlvo_requests", "Requests that were answered.", ["status"], registry=registry)
        self.abandoned = Counter("rlvo_abandoned", "Requests whose caller left before the answer.", registry=registry)
        self.patients = Counter("rlvo_patients", "Patients asked about.", ["scored"], registry=registry)
        self.waiting = Gauge("rlvo_waiting", "Requests that wait for the model or are with it.", registry=registry)
        buckets = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
        what = "Time from a request's arrival to its answer."
        self.seconds = Histogram("rlvo_answer_seconds", what, buckets=buckets, registry=registry)


class Server:
    """The application: who may ask, what is asked, and one request at a time to the model.

    Args:
        served: reads requests.
        model: answers them.
        pid: of the process whose memory is told.
    """

    def __init__(
        self,
        served: ServedModel,
        model: ModelProcess,
        *,
        manifest: str,
        max_bytes: int,
        token: str | None,
        host: str,
        pid: int,
    ) -> None:
        self._served, self._model, self._max_bytes, self._token = served, model, max_bytes, token
        self._names = {host, f"[{host}]", "127.0.0.1", "localhost", "[::1]"} if is_local(host) else None
        self._waiting = 0
        self.metrics = Metrics(manifest, pid)
        routes = [
            Route("/ping", self._ping),
            Route("/health", self._ping),
            Route("/version", self._version),
            Route("/ready", self._ready),
            Route("/metrics", self._show_metrics),
            Route("/invocations", self._answer, methods=["POST"]),
        ]
        handlers: Any = {HTTPException: _as_json, ClientDisconnect: _as_json, Exception: _as_json}
        self._app = Starlette(routes=routes, exception_handlers=handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request by its headers, or pass it on; count it either way. A refusal is told a little later."""
        refusal: list[Message] = []

        async def send_counted(message: Message) -> None:
            is_refusal = bool(refusal)
            if message["type"] == "http.response.start":
                self.count(message["status"], on_record=scope["path"] not in OPEN)
                is_refusal = 400 <= message["status"] < GONE
            if is_refusal:
                refusal.append(message)
            else:
                await send(message)

        if scope["type"] == "http":
            request = Request(scope)
            try:
                self._check(request)
            except HTTPException as refused:
                await _as_json(request, refused)(scope, receive, send_counted)
        if not refusal:
            await self._app(scope, receive, send_counted)
        if refusal and await scope["state"]["hold_back"]():
            MutableHeaders(scope=refusal[0])["connection"] = "close"
        for message in refusal:
            await send(message)

    def count(self, status: int, *, on_record: bool = True) -> None:
        """Count an answer or a refusal; the audit has a line for a refusal."""
        if status == GONE:
            return
        self.metrics.requests.labels(status).inc()
        if status >= 400 and on_record and self._served.audit is not None:
            with suppress(OSError):  # it is refused all the same
                self._served.audit.write({"refused": status})

    def _check(self, request: Request) -> None:
        """Raise HTTPException if a request's headers are reason enough to refuse it."""
        headers = request.headers
        if request.scope["http_version"] not in ("1.0", "1.1"):
            raise HTTPException(400, "ask in HTTP/1.1", {"Connection": "close"})
        # h11's own limit is for headers that come in pieces.
        if len(request.scope["raw_path"]) + sum(len(each) for pair in headers.raw for each in pair) > MAX_HEADER_BYTES:
            raise HTTPException(400, f"address and headers have more than {MAX_HEADER_BYTES} bytes")
        # A web page must not reach a local server through a host name of its own.
        if self._names is not None and re.sub(r":\d+$", "", headers.get("host", "")) not in self._names:
            raise HTTPException(400, "this server is asked as localhost only")
        if "content-length" in headers and "transfer-encoding" in headers:
            raise HTTPException(400, "the request states its length and comes in chunks, too")
        if self._token is None or request.scope["path"] in OPEN:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
            raise HTTPException(401, "send the token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    async def _answer(self, request: Request) -> Response:
        body = await self._body(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "send application/json")
        rows = self._served.rows(body)
        if self._waiting >= MOST_WAITING:
            raise HTTPException(429, f"{MOST_WAITING} requests wait already", {"Retry-After": "10"})
        self._waiting, start = self._waiting + 1, time.perf_counter()
        try:
            with self.metrics.waiting.track_inprogress():
                answer = await self._ask(body, rows, request)
        finally:
            self._waiting -= 1
        self.metrics.seconds.observe(time.perf_counter() - start)
        self.metrics.patients.labels("yes").inc(answer.scored)
        self.metrics.patients.labels("no").inc(answer.unscored)
        return Response(answer.text, media_type="application/json")

    async def _ask(self, body: bytes, rows: int, request: Request) -> Answer:
        """Wait for the model's answer, or raise ClientDisconnect once the caller has gone, whose turn is then over."""
        work = asyncio.ensure_future(self._model.answer(body, rows, request.state.is_gone))
        gone = asyncio.ensure_future(_until_gone(request))
        both: set[asyncio.Future[Any]] = {work, gone}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        with suppress(ClientDisconnect):
            if work.done():
                gone.cancel()
                return work.result()
        work.cancel()
        self.metrics.abandoned.inc()
        raise ClientDisconnect

    async def _body(self, request: Request) -> bytes:
        """The body of a request, counted as it comes, whatever the headers say."""
        length, body = request.headers.get("content-length"), bytearray()
        if length is not None and int(length) > self._max_bytes:
            raise HTTPException(413, f"the request is larger than {self._max_bytes} bytes")
        async for part in request.stream():
            body += part
            if len(body) > self._max_bytes:
                raise HTTPException(413, f"the request is larger than {self._max_bytes} bytes")
        if length is None:
            raise HTTPException(411, "the request does not state its length")
        return bytes(body)

    async def _ping(self, request: Request) -> Response:
        return Response("\n", media_type="application/json")

    async def _version(self, request: Request) -> Response:
        return Response(VERSION, media_type="application/json")

    async def _ready(self, request: Request) -> Response:
        audit = self._served.audit
        reasons = {
            "the audit cannot be written": audit is not None and not audit.is_writable(),
            "the data root is not there": not Path(os.environ["RLVO_DATA_ROOT"]).is_dir(),
            f"{MOST_WAITING} requests wait already": self._waiting >= MOST_WAITING,
        }
        why = next((why for why, holds in reasons.items() if holds), None)
        return JSONResponse({"error": why}, 503) if why else JSONResponse({"ready": True})

    async def _show_metrics(self, request: Request) -> Response:
        return Response(exposition.generate_latest(self.metrics.registry), media_type=exposition.CONTENT_TYPE_LATEST)


def serve(
    model: PyFuncModel,
    *,
    version: Mapping[str, str],
    host: str,
    port: int,
    max_bytes: int,
    audit: str | None,
    caution: str | None,
    max_rows: int = 100,
    token: str | None = None,
) -> None:
    """Serve until standard input ends. Prints one line, the address.

    Args:
        version: the model's name and the digest of its manifest, for the audit.
        port: 0 means any free port.
        max_bytes: size of the largest request that is accepted.
        audit: file to append to; None: there is no audit.
        caution: what the warnings of every answer begin with; None: nothing.
        max_rows: of the largest table that is accepted.
        token: what callers must send; None: anyone may ask.
    """
    os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"  # by which the model knows to limit paths
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it comments on single requests
    schema = model.metadata.get_input_schema()  # type: ignore[no-untyped-call]
    record = Audit(Path(audit), version, frozenset(schema.input_names())) if audit else None
    served = ServedModel(model, caution, record, max_rows)
    try:
        opened = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        print(f"error: {host}:{port}: {error.strerror}. Choose another --port or --host", file=sys.stderr)
        sys.exit(RlvoError.exit_code)
    ours, models = Pipe()
    if (pid := os.fork()) == 0:
        models.close()
        app = Server(
            served,
            ModelProcess(ours),
            manifest=version["manifest"],
            max_bytes=max_bytes,
            token=token,
            host=host,
            pid=os.getppid(),
        )
        _listen(app, opened, host)
    ours.close()
    opened.close()
    answer_all(models, served)
    models.close()
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        sys.exit(f"error: the server's process ended with {code}")


def _listen(app: Server, opened: socket.socket, host: str) -> NoReturn:
    """The server's process, until standard input ends."""
    same: dict[str, Any] = {"http": partial(Connection, on_refused=app.count), "ws": "none", "loop": "asyncio"}
    same["h11_max_incomplete_event_size"] = MAX_HEADER_BYTES
    quiet: dict[str, Any] = {"log_level": "error", "access_log": False, "server_header": False, "proxy_headers": False}
    server = uvicorn.Server(uvicorn.Config(app, **same, **quiet))

    def stop_with_parent() -> None:
        sys.stdin.read()
        server.should_exit = True

    code = 1
    try:
        gc.freeze()  # what is the model's stays shared
        threading.Thread(target=stop_with_parent, daemon=True).start()
        address = f"[{host}]" if ":" in host else host
        print(f"http://{address}:{opened.getsockname()[1]}", flush=True)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[opened])
        code = 0
    except Exception as error:  # noqa: BLE001
        print(f"error: the server failed: {type(error).__name__}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)  # what else ends with the process is the model's


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _as_json(request: Request, error: Exception) -> Response:
    """An error as one line; a connection on which a request's end is unclear is closed."""
    status, why, headers = 500, "the server failed", dict[str, str]()
    if isinstance(error, HTTPException):
        status, why, headers = error.status_code, error.detail, dict(error.headers or {})
    if isinstance(error, ClientDisconnect):
        status, why = GONE, "the caller has gone"
    # Where a body ends that comes in chunks is the client's word: what follows is not taken for another request.
    if "transfer-encoding" in request.headers:
        headers["Connection"] = "close"
    return JSONResponse({"error": why}, status, headers)
