from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rlvo.errors import MachineError
from rlvo.tracking.connection import connect, without_password


def test_an_experiment_is_made_once_with_the_artifact_folder(empty_database: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    client, experiment = connect(uri, "study", tmp_path / "arte facts")
    assert connect(uri, "study", tmp_path / "arte facts")[1] == experiment
    assert client.get_experiment(experiment).artifact_location == (tmp_path / "arte facts").as_uri()


def run_alone(program: str, *arguments: str, home: Path, **environment: str) -> tuple[str, str]:
    """Standard output and error of a Python program in a process that has nothing of this one's environment."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=home, env={"PATH": "/usr/bin:/bin", "HOME": str(home), **environment}, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout, done.stderr


def test_the_first_use_of_a_database_is_quiet(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from rlvo.tracking.connection import connect\n"
        "connect(sys.argv[1], 'study', Path('artifacts'))\n"
        "print(os.environ['MLFLOW_DISABLE_TELEMETRY'], 'MLFLOW_RUN_ID' in os.environ)"
    )
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert run_alone(program, uri, home=tmp_path, MLFLOW_RUN_ID="0" * 32) == ("true False\n", "")


def test_what_fails_is_told_by_us_alone(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from rlvo.errors import RlvoError\n"
        "from rlvo.tracking.connection import connect\n"
        "for uri in sys.argv[1:]:\n"
        "    try: connect(uri, 'study', Path('artifacts'))\n"
        "    except RlvoError as error: print(error)"
    )
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to look like one" * 100)
    output, errors = run_alone(program, f"sqlite:///{tmp_path}/mlflow.db", "http://127.0.0.1:9", home=tmp_path)
    assert len(output.splitlines()) == 2
    assert errors == ""


def test_a_server_that_is_away_is_one_line_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MachineError) as caught:
        connect("http://me:secret@127.0.0.1:9", "study", Path("unused"))
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("http://127.0.0.1:9: MLflow does not answer")


def test_without_password() -> None:
    assert without_password("at http://me:secret@host/x and https://host/y") == "at http://host/x and https://host/y"
