"""A real MLflow server that is not there yet when trials run, comes, and stops answering for a while."""

import http.client
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.mlflow_server import server
from support.processes import free_port, wait_until
from support.study_on_disk import NCCT, StudyOnDisk

from rlvo.mlflow_client import Tracking


class Lossy(BaseHTTPRequestHandler):
    """Passes requests on to a server, and hangs up instead of answering every other request to make a run."""

    server: "LossyServer"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with closing(http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)) as upstream:
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            status, kind, content = answer.status, answer.headers.get("Content-Type", ""), answer.read()
        if self.path.endswith("/runs/create"):
            self.server.made += 1
            if self.server.made % 2:
                self.close_connection = True
                return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class LossyServer(ThreadingHTTPServer):
    def __init__(self, upstream: int) -> None:
        self.upstream, self.made = upstream, 0
        super().__init__(("127.0.0.1", 0), Lossy)


@contextmanager
def lossy(port: int) -> Iterator[LossyServer]:
    """A proxy on the loopback address before the server at `port`."""
    with LossyServer(port) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


@pytest.fixture
def server_folder(empty_database: Path, tmp_path: Path) -> Path:
    """A folder for `server`, with a database in it: creating one takes seconds."""
    (tmp_path / "server").mkdir()
    shutil.copy(empty_database, tmp_path / "server" / "mlflow.db")
    return tmp_path / "server"


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_while_the_server_is_away(
    on_disk: StudyOnDisk, server_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    tracking, epochs = Tracking(f"http://127.0.0.1:{port}", on_disk.artifacts), on_disk.epochs(0, count=4)

    def problems() -> int:
        return len([record for record in caplog.records if record.name.startswith("rlvo")])

    on_disk.start(NCCT, 0, epochs[:1])
    on_disk.start(NCCT, 1, epochs[:1])
    mirror = on_disk.mirror(tracking)
    mirror.start(interval=0.1)
    wait_until(lambda: problems() == 1)
    with server(server_folder, port) as group:
        wait_until(lambda: len([run for run in on_disk.runs("trial", tracking) if "val/auc" in run.data.metrics]) == 2)
        wait_until(lambda: mirror._problem is None)  # else that round would fail too: one absence, told once

        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        os.killpg(group, signal.SIGSTOP)
        on_disk.end(NCCT, 0, epochs)
        wait_until(lambda: problems() == 2)
        monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
        os.killpg(group, signal.SIGCONT)
        on_disk.end(NCCT, 1, epochs)
        assert mirror.close() is None

        assert [len(on_disk.runs(kind, tracking)) for kind in ("study", "configuration", "trial")] == [1, 1, 2]
        assert {run.info.status for run in on_disk.runs(tracking=tracking)} == {"FINISHED"}
        client = tracking.client()
        for trial in on_disk.runs("trial", tracking):
            history = on_disk.history(trial, tracking=tracking)
            assert history == [(step, epoch["val/auc"]) for step, epoch in enumerate(epochs, 1)]
            names = {artifact.path for artifact in client.list_artifacts(trial.info.run_id)}
            assert names == {"best", "figures", "validation_predictions.csv"}
    assert problems() == 2, "an absence is logged once"
    assert not on_disk.artifacts.exists(), "a server keeps artifacts itself"


@pytest.mark.slow
def test_a_server_away_for_the_whole_run_gets_everything_once_though_answers_are_lost(
    new_study: Callable[..., StudyOnDisk], server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    port = free_port()
    on_disk = new_study(mlflow={"keep_checkpoints": 1}, search={"configurations": 1})

    def end(fold: int, auc: float) -> None:
        on_disk.end(NCCT, fold, [{**epoch, "val/auc": auc} for epoch in on_disk.epochs(fold)])

    away = on_disk.mirror(Tracking(f"http://127.0.0.1:{port}", on_disk.artifacts))
    away.start(interval=0.1)
    end(0, 0.7)
    time.sleep(0.5)
    assert (away.close() or "").startswith("MLflow is missing 1 trial(s)")

    with server(server_folder, port), lossy(port) as proxy:
        tracking = Tracking(f"http://127.0.0.1:{proxy.server_port}", on_disk.artifacts)
        client = tracking.client()
        mirror = on_disk.mirror(tracking)
        mirror.sync()
        (first,) = on_disk.runs("trial", tracking)
        assert [artifact.path for artifact in client.list_artifacts(first.info.run_id, "best")]

        end(1, 0.8)  # a better one takes the place of its checkpoint
        mirror.sync()
        assert proxy.made == 2 * 4, "each run was asked for twice"
        assert [len(on_disk.runs(kind, tracking)) for kind in ("study", "configuration", "trial")] == [1, 1, 2]
        assert {run.info.status for run in on_disk.runs(tracking=tracking)} == {"FINISHED"}
        for trial in on_disk.runs("trial", tracking):
            assert [step for step, _ in on_disk.history(trial, tracking=tracking)] == [1, 2, 3]
            names = {artifact.path for artifact in client.list_artifacts(trial.info.run_id)}
            is_best = trial.data.metrics["best/auc"] == 0.8
            assert names == ({"best"} if is_best else set()) | {"figures", "validation_predictions.csv"}
            assert ("rlvo.best" in trial.data.tags) == is_best
    (kept,) = server_folder.rglob("model.safetensors")
    assert kept.read_bytes() == (on_disk.trial(NCCT, 1) / "best/model.safetensors").read_bytes()
