"""The connection to MLflow: quiet, quick to give up, errors in one line, and no password anywhere."""

import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

import mlflow
import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from rlvo.errors import MachineError, RlvoError, encode_password, get_logger, hide_passwords
from rlvo.mlflow_client import Tracking, one_line

HOSTILE = st.characters(exclude_categories=["Cs"]) | st.sampled_from([*"/@:%?#[]& \t\\'\"", "%2F", "://"])
PASSWORDS = st.builds(
    lambda password, is_encoded: quote(password, safe="") if is_encoded else password,
    st.lists(HOSTILE, max_size=8).map(lambda pieces: "".join(["w0rd", *pieces, "w0rd"])),
    st.booleans(),
)
"""Passwords of any characters, percent-encoded or not; a piece of one that is shown shows `w0rd`."""
NOBODY = "127.0.0.1:9"


@pytest.fixture
def tracking(empty_database: Path, tmp_path: Path) -> Tracking:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Tracking(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "arte facts")


def test_an_experiment_is_created_once_with_the_artifact_folder(tracking: Tracking, tmp_path: Path) -> None:
    client, experiment = tracking.open_experiment("study")
    assert tracking.open_experiment("study")[1] == experiment
    assert client.get_experiment(experiment).artifact_location == (tmp_path / "arte facts").as_uri()


def run_alone(program: str, *arguments: str, home: Path, **environment: str) -> tuple[str, str]:
    """Standard output and error of a Python program in a process that has nothing of this one's environment."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; from pathlib import Path\n{program}", *arguments],
        cwd=home, env={"PATH": "/usr/bin:/bin", "HOME": str(home), **environment}, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout, done.stderr


@pytest.mark.slow
def test_the_first_use_of_a_database_is_quiet(tmp_path: Path) -> None:
    program = (
        "import os; from rlvo.mlflow_client import Tracking\n"
        "client, experiment = Tracking(sys.argv[1], Path('artifacts')).open_experiment('study')\n"
        "run = client.create_run(experiment).info.run_id\n"
        "print(os.environ['MLFLOW_DISABLE_TELEMETRY'], len(run), run == os.environ['MLFLOW_RUN_ID'])"
    )
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert run_alone(program, uri, home=tmp_path, MLFLOW_RUN_ID="0" * 32) == ("true 32 False\n", "")


@pytest.mark.slow
def test_errors_are_reported_by_us_alone(tmp_path: Path) -> None:
    program = (
        "from rlvo.errors import RlvoError; from rlvo.mlflow_client import Tracking\n"
        "for uri in sys.argv[1:]:\n"
        "    try: Tracking(uri, Path('artifacts')).open_experiment('study')\n"
        "    except RlvoError as error: print(error)"
    )
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to look like one" * 100)
    uris = (f"sqlite:///{tmp_path}/mlflow.db", f"http://{NOBODY}", f"mysql://{NOBODY}/driver-is-missing")
    output, errors = run_alone(program, *uris, home=tmp_path, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert len(output.splitlines()) == 3
    assert errors == ""


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
@given(password=PASSWORDS)
@settings(max_examples=25, deadline=None)
def test_no_password_is_in_the_error_of_an_address_that_does_not_answer(scheme: str, password: str) -> None:
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    with pytest.raises(MachineError) as caught:
        Tracking(f"{scheme}://me:{password}@{NOBODY}/x", Path("unused")).open_experiment("study")
    assert str(caught.value).startswith(f"{scheme}://{NOBODY}/x: MLflow does not answer")
    assert "w0rd" not in repr(str(caught.value))
    assert "\n" not in str(caught.value)


@given(password=PASSWORDS)
@settings(max_examples=50, deadline=None)
def test_an_encoded_password_reaches_the_library_whole(password: str) -> None:
    """So no error of SQLAlchemy's takes a piece of it for the host, and one that names the address is cut."""
    address = encode_password(f"postgresql+psycopg://me:{password}@host/db")
    url = sqlalchemy.make_url(address)
    assert (url.username, url.password, url.host, url.database) == ("me", unquote(password), "host", "db")
    assert encode_password(address) == address
    address = encode_password(f"postgresql+psycopg://me:{password}@{NOBODY}:not-a-port/db")
    with pytest.raises((sqlalchemy.exc.SQLAlchemyError, ValueError, ImportError)) as caught:
        sqlalchemy.create_engine(address).connect()
    assert "w0rd" not in one_line(caught.value)


@given(password=PASSWORDS.filter(lambda password: "\n" not in password))
def test_passwords_are_cut_out_of_text_and_logs(password: str) -> None:
    text = f"at http://me:{password}@host/x and https://host/y"
    assert hide_passwords(text) == "at http://host/x and https://host/y"
    assert "w0rd" not in str(RlvoError(text, where=f"ftp://me:{password}@host", fix=text))
    shown: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: shown.append(record.getMessage())  # type: ignore[method-assign]
    logger = get_logger("rlvo.planted")
    logger.addHandler(handler)
    logger.warning("cannot reach %s", text)
    logger.removeHandler(handler)
    assert shown == ["cannot reach at http://host/x and https://host/y"]


def test_an_error_is_shortened_only_after_its_password_is_gone() -> None:
    long = "w0rd" * 60
    assert one_line(ValueError(f"at http://me:{long}@host, which is away")) == "at http://host, which is away"


def test_files_and_short_secrets_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p@ss/w0rd")
    monkeypatch.setenv("SOME_TOKEN", "a")
    assert hide_passwords("p@ss/w0rd, p%40ss%2Fw0rd and a day") == "***, *** and a day"
    for address in ("sqlite:////home/me@work/mlflow.db", "http://host:5000", "mlflow.db"):
        assert encode_password(address) == hide_passwords(address) == address


def test_registering_uses_the_process_wide_address_for_itself_only(
    tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other threads' settings stay, and so does the address that a notebook has set."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://notebook")
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("{}\n")
    client, experiment = tracking.open_experiment("study")
    model = client.create_logged_model(experiment, "ensemble", client.create_run(experiment).info.run_id)
    client.log_model_artifacts(model.model_id, str(tmp_path / "model"))
    stop = threading.Event()

    def set_variables() -> None:
        while not stop.is_set():
            os.environ["RLVO_PLANTED"] = os.environ.get("RLVO_PLANTED", "") + "x"

    thread = threading.Thread(target=set_variables)
    thread.start()
    with tracking.registry("rlvo-ensemble"):
        versions = [tracking.register(f"models:/{model.model_id}", "rlvo-ensemble", {"a": "b"}) for _ in range(2)]
    kept = len(os.environ["RLVO_PLANTED"])
    stop.set()
    thread.join()
    assert len(os.environ.pop("RLVO_PLANTED")) >= kept > 1
    assert versions == ["1", "2"]
    assert (os.environ["MLFLOW_TRACKING_URI"], mlflow.get_tracking_uri()) == ("http://notebook", "http://notebook")
    assert "MLFLOW_REGISTRY_URI" not in os.environ
    version = MlflowClient(tracking.uri, tracking.uri).get_model_version("rlvo-ensemble", "2")
    assert (version.source, version.tags) == (f"models:/{model.model_id}", {"a": "b"})


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda client: client.get_registered_model("other"), "not in the registry"),
        (lambda client: client.get_model_version("../other", "x"), "not in the registry"),
    ],
)
def test_what_the_registry_lacks_is_the_inputs_fault(
    tracking: Tracking, ask: Callable[[MlflowClient], object], message: str
) -> None:
    with pytest.raises(RlvoError, match=message) as caught, tracking.registry("other@champion") as client:
        ask(client)
    assert (caught.value.exit_code, caught.value.where, "\n" in str(caught.value)) == (2, "other@champion", False)


def test_a_registry_that_is_away_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking = Tracking(f"http://me:w0rd@{NOBODY}", Path("unused"))
    with pytest.raises(MachineError, match="does not answer") as caught, tracking.registry("rlvo") as client:
        client.get_registered_model("rlvo")
    assert (caught.value.exit_code, "\n" in str(caught.value), "w0rd" in str(caught.value)) == (1, False, False)


def test_a_server_that_is_away_or_silent_is_told_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert f"request to {address}" in str(Tracking(address, tmp_path).trouble("study", 20))
        server.listen()
        silent = Tracking(address, tmp_path).trouble("study", 0.5)
        assert silent == "MLflow does not answer (no answer within 0.5 s)"
    assert Tracking(f"sqlite:///{tmp_path}/mlflow.db", tmp_path).trouble("study") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_deleted_experiment_is_one_line_with_the_command_that_restores_it(tracking: Tracking) -> None:
    client, experiment = tracking.open_experiment("study")
    assert tracking.trouble("study") is None
    client.delete_experiment(experiment)
    with pytest.raises(MachineError, match=r"^study: its experiment was deleted in MLflow\. Restore it: ") as caught:
        tracking.open_experiment("study")
    assert tracking.trouble("study") == str(caught.value)
    assert tracking.trouble("another") is None
    restore = str(caught.value).partition("Restore it: ")[2]
    subprocess.run(restore, shell=True, check=True, capture_output=True)
    assert tracking.open_experiment("study")[1] == experiment
