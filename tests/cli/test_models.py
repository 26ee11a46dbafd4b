"""`rlvo models` on a registry whose versions are small files."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.commands import refused, run

from rlvo.registry.location import DIGEST_TAG, write_manifest


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


def test_list_promote_and_roll_back(workdir: Path) -> None:
    work = ("--workdir", workdir)
    assert "version 1 is the champion" in run("models", "promote", 1, *work).stderr
    assert "version 2 is the champion, instead of version 1" in run("models", "promote", 2, *work).stderr
    assert "already" in run("models", "promote", 2, *work).stderr
    listed = json.loads(run("models", "--json", *work).stdout)
    assert [(each["number"], each["aliases"]) for each in listed["versions"]] == [(3, []), (2, ["champion"]), (1, [])]
    assert "failed: a member differs" in run("models", *work).stderr
    assert "version 1 is the champion again" in run("models", "rollback", *work).stderr
    assert "gate" in refused("models", "promote", 3, *work)


def test_an_option_that_a_subcommand_would_not_see_is_refused(workdir: Path) -> None:
    assert f"rlvo models promote 1 --workdir {workdir}" in refused("models", "--workdir", workdir, "promote", 1)
