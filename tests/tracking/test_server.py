"""A real MLflow server that is not there yet when trials run, comes, and stops answering for a while."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow_server import free_port, server, wait_until

from rlvo.config.model import Configuration


class Lossy(BaseHTTPRequestHandler):
    """Passes requests on to a server, and hangs up instead of answering every other request to make a run."""

    server: LossyServer

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


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_while_the_server_is_away(
    on_disk: Any,
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    uri, configuration, epochs = f"http://127.0.0.1:{port}", Configuration(), on_disk.epochs(0, count=4)
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())

    def problems() -> int:
        return len([record for record in caplog.records if record.name.startswith("rlvo")])

    on_disk.start(configuration, 0, epochs[:1])
    on_disk.start(configuration, 1, epochs[:1])
    mirror = on_disk.mirror(uri)
    mirror.start(interval=0.1)
    wait_until(lambda: problems() == 1)
    with server(folder, port) as group:
        wait_until(lambda: len([run for run in on_disk.runs("trial", uri) if "val/auc" in run.data.metrics]) == 2)

        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        os.killpg(group, signal.SIGSTOP)
        on_disk.end(configuration, 0, epochs)
        wait_until(lambda: problems() == 2)
        monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
        os.killpg(group, signal.SIGCONT)
        on_disk.end(configuration, 1, epochs)
        assert mirror.close() is None

        assert [len(on_disk.runs(kind, uri)) for kind in ("study", "configuration", "trial")] == [1, 1, 2]
        assert {run.info.status for run in on_disk.runs(tracking_uri=uri)} == {"FINISHED"}
        client = MlflowClient(uri)
        for trial in on_disk.runs("trial", uri):
            history = client.get_metric_history(trial.info.run_id, "val/auc")
            assert [(metric.step, metric.value) for metric in history] == [
                (step, epoch["val/auc"]) for step, epoch in enumerate(epochs, 1)
            ]
            names = {artifact.path for artifact in client.list_artifacts(trial.info.run_id)}
            assert names == {"best", "validation_predictions.csv"}
    assert problems() == 2, "an absence is told once"
    assert not on_disk.artifacts.exists(), "a server keeps artifacts itself"


@pytest.mark.slow
def test_a_server_away_for_the_whole_run_gets_everything_once_though_answers_are_lost(
    new_study: Callable[..., Any], empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    port = free_port()
    on_disk = new_study(mlflow={"keep_checkpoints": 1}, search={"configurations": 1})
    configuration = Configuration()
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())

    def end(fold: int, auc: float) -> None:
        on_disk.end(configuration, fold, [{**epoch, "val/auc": auc} for epoch in on_disk.epochs(fold)])

    away = on_disk.mirror(f"http://127.0.0.1:{port}")
    away.start(interval=0.1)
    end(0, 0.7)
    time.sleep(0.5)
    assert (away.close() or "").startswith("MLflow lacks 1 trial(s)")

    with server(folder, port), lossy(port) as proxy:
        uri = f"http://127.0.0.1:{proxy.server_port}"
        client = MlflowClient(uri)
        mirror = on_disk.mirror(uri)
        mirror.sync()
        (first,) = on_disk.runs("trial", uri)
        assert [artifact.path for artifact in client.list_artifacts(first.info.run_id, "best")]

        end(1, 0.8)  # a better one takes the place of its checkpoint
        mirror.sync()
        assert proxy.made == 2 * 4, "each run was asked for twice"
        assert [len(on_disk.runs(kind, uri)) for kind in ("study", "configuration", "trial")] == [1, 1, 2]
        assert {run.info.status for run in on_disk.runs(tracking_uri=uri)} == {"FINISHED"}
        for trial in on_disk.runs("trial", uri):
            history = client.get_metric_history(trial.info.run_id, "val/auc")
            assert [metric.step for metric in history] == [1, 2, 3]
            names = {artifact.path for artifact in client.list_artifacts(trial.info.run_id)}
            is_best = trial.data.metrics["best/auc"] == 0.8
            assert names == ({"best"} if is_best else set()) | {"validation_predictions.csv"}
            assert ("rlvo.best" in trial.data.tags) == is_best
    (kept,) = folder.rglob("model.safetensors")
    assert kept.read_bytes() == (on_disk.trial(configuration, 1) / "best/model.safetensors").read_bytes()
