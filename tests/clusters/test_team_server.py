"""The team's MLflow server: real Postgres, artifacts through the server, nothing without a password."""

import http.client
import shutil
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

REPOSITORY = Path(__file__).parents[2]
SERVER = REPOSITORY / "mlflow/server.sh"
ADMIN = ("admin", "correct horse battery")
ANNA, BEN, CLEO = ("anna", "anna's own secret"), ("ben", "ben's other secret"), ("cleo", "cleo's third secret")


def test_the_start_script_refuses_what_is_not_filled_in(tmp_path: Path) -> None:
    settings = tmp_path / "server.env"

    def told(*arguments: object) -> str:
        done = subprocess.run([SERVER, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        return done.stderr.strip()

    assert told() == "no settings named: no such file. Copy mlflow/server.env.example and fill it in"
    assert told(settings).startswith(f"{settings}: no such file")
    example = (REPOSITORY / "mlflow/server.env.example").read_text()
    settings.write_text(example)
    settings.chmod(0o640)
    assert told(settings) == f"{settings}: others can read the passwords in it. chmod 600 {settings}"
    settings.chmod(0o600)
    empty = [line.split("=")[0] for line in example.splitlines() if "=" in line and not line.startswith("#")]
    assert {"MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"} <= set(empty)
    for name in ("MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION", "MLFLOW_AUTH_ADMIN_PASSWORD",
                 "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_SERVER_ALLOWED_HOSTS"):  # fmt: skip
        assert told(settings) == f"{settings}: {name} is empty. Fill it in"
        settings.write_text(settings.read_text() + f"{name}=given\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["server.env"]


@pytest.mark.slow
def test_the_team_server_keeps_everything_behind_passwords(
    team_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.server.auth.client import AuthServiceClient  # needs what mlflow[auth] brings

    uri = team_server.uri
    assert status(uri, "/health") == 200
    for path in ("/", "/api/2.0/mlflow/experiments/search?max_results=1", "/api/2.0/mlflow-artifacts/artifacts"):
        assert status(uri, path) == 401, path
        assert status(uri, path, host="elsewhere.example") == 403, path
    assert status(uri, "/", user=("admin", "password1234")) == 401
    log_in(ADMIN, monkeypatch)
    for user in (ANNA, BEN):
        AuthServiceClient(uri).create_user(*user)

    anna = client(uri, ANNA, monkeypatch)
    experiment = anna.create_experiment("hers")
    run = anna.create_run(experiment).info.run_id
    anna.log_metric(run, "val/auc", 0.75)
    (tmp_path / "weights").write_bytes(bytes(range(256)) * 100)
    anna.log_artifact(run, str(tmp_path / "weights"), "best")
    assert anna.get_experiment(experiment).artifact_location.startswith("mlflow-artifacts:")
    (stored,) = team_server.artifacts.rglob("weights")
    assert stored.read_bytes() == (tmp_path / "weights").read_bytes()
    fetched = anna.download_artifacts(run, "best/weights", str(tmp_path))
    assert Path(fetched).read_bytes() == stored.read_bytes()

    ben = client(uri, BEN, monkeypatch)
    assert ben.search_experiments() == []
    with pytest.raises(MlflowException, match="Permission denied"):
        ben.get_run(run)
    with pytest.raises(MlflowException):
        ben.download_artifacts(run, "best/weights", str(tmp_path))
    log_in(ANNA, monkeypatch)
    AuthServiceClient(uri).grant_user_permission("ben", "experiment", experiment, "READ")
    log_in(BEN, monkeypatch)
    assert ben.get_run(run).data.metrics == {"val/auc": 0.75}
    with pytest.raises(MlflowException, match="Permission denied"):
        ben.log_metric(run, "val/auc", 1.0)

    secrets = (ADMIN[1], urlsplit(team_server.database).password, "0" * 64)
    for process in [psutil.Process(team_server.pid), *psutil.Process(team_server.pid).children(recursive=True)]:
        assert not any(secret in " ".join(process.cmdline()) for secret in secrets)
    assert (team_server.settings.parent / "basic_auth.ini").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_a_backup_brings_everything_back(
    team_server: Any, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_bin: Path
) -> None:
    from mlflow.server.auth.client import AuthServiceClient

    log_in(ADMIN, monkeypatch)
    AuthServiceClient(team_server.uri).create_user(*CLEO)
    cleo = client(team_server.uri, CLEO, monkeypatch)
    run = cleo.create_run(cleo.create_experiment("backed up")).info.run_id
    for epoch, loss in enumerate((0.7, 0.6, 0.55)):
        cleo.log_metric(run, "val/loss", loss, step=epoch)
    (tmp_path / "weights").write_bytes(bytes(range(256)) * 100)
    cleo.log_artifact(run, str(tmp_path / "weights"), "best")

    (place := tmp_path / "other machine").mkdir()
    database = copied(team_server.database, postgres_bin, tmp_path / "mlflow.dump")
    shutil.copytree(team_server.artifacts, place / "artifacts")
    with serve(database, place) as restored:
        assert status(restored.uri, "/") == 401
        again = client(restored.uri, CLEO, monkeypatch)  # with her old password
        history = again.get_metric_history(run, "val/loss")
        assert [(each.step, each.value) for each in history] == [(0, 0.7), (1, 0.6), (2, 0.55)]
        fetched = again.download_artifacts(run, "best/weights", str(place))
        assert Path(fetched).read_bytes() == (tmp_path / "weights").read_bytes()


def client(uri: str, user: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    log_in(user, monkeypatch)
    return MlflowClient(uri)


def log_in(user: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user[1])


def status(uri: str, path: str, *, user: tuple[str, str] | None = None, host: str | None = None) -> int:
    """The HTTP status of a request."""
    headers = {}
    if host:
        headers["Host"] = host
    if user:
        headers["Authorization"] = "Basic " + b64encode(":".join(user).encode()).decode()
    connection = http.client.HTTPConnection(urlsplit(uri).netloc, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    connection.close()
    return answer.status


def copied(database: str, postgres_bin: Path, dump: Path) -> str:
    """A copy of the database, by the commands of README.md."""
    copy = database.removesuffix("mlflow") + "copy"

    def run(program: str, *arguments: object) -> None:
        subprocess.run([postgres_bin / program, *map(str, arguments)], check=True, capture_output=True)

    run("pg_dump", "--format=custom", "--file", dump, database)
    run("psql", database, "-c", "CREATE DATABASE copy")
    run("pg_restore", "--no-owner", "--dbname", copy, dump)
    return copy
