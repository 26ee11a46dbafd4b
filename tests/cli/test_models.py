"""`rlvo models` on a registry whose versions are small files."""

import json
from pathlib import Path

import pytest
import typer
from mlflow import MlflowClient
from typer.testing import CliRunner, Result

from rlvo.cli import models
from rlvo.errors import RlvoError
from rlvo.registry.manifest import DIGEST_TAG, write_manifest

app = typer.Typer()
app.add_typer(models.app, name="models")


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.create_registered_model("rlvo-ensemble")
    for gate in ("passed: 8 patients", "passed: 8 patients", "failed: a member differs"):
        folder = tmp_path / "artifacts" / gate[:6]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "MLmodel").touch()
        tags = {DIGEST_TAG: write_manifest(folder), "rlvo.gate": gate, "rlvo.study": "demo"}
        client.create_model_version("rlvo-ensemble", str(folder), tags=tags)
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["models", *map(str, arguments)])


def test_list_promote_and_roll_back(workdir: Path) -> None:
    work = ("--workdir", workdir)
    assert "version 1 is the champion" in run("promote", 1, *work).stderr
    assert "version 2 is the champion, instead of version 1" in " ".join(run("promote", 2, *work).stderr.split())
    assert "already" in run("promote", 2, *work).stderr
    listed = json.loads(run("--json", *work).stdout)
    assert [(each["number"], each["aliases"]) for each in listed["versions"]] == [(3, []), (2, ["champion"]), (1, [])]
    shown = run(*work)
    assert shown.exit_code == 0, shown.output
    assert "failed: a member differs" in " ".join(shown.stderr.split())
    assert "version 1 is the champion again" in run("rollback", *work).stderr
    failed = run("promote", 3, *work).exception
    assert isinstance(failed, RlvoError)
    assert failed.exit_code == 2


def test_an_option_that_a_subcommand_would_not_see_is_refused(workdir: Path) -> None:
    misplaced = run("--workdir", workdir, "promote", 1).exception
    assert isinstance(misplaced, RlvoError)
    assert "rlvo models promote --workdir" in str(misplaced)
