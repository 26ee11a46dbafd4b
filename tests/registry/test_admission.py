"""Who may answer: a version that passed its gate, by any name; another only if asked to, and every answer says so."""

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.commands import refused, run
from support.documents import ROOT
from support.registered_study import Registered

from rlvo.errors import RlvoError
from rlvo.files import file_sha256
from rlvo.mlflow_client import Tracking
from rlvo.registry.admission import RECORD, admit_model
from rlvo.registry.gate import GATE_TAG
from rlvo.registry.location import DIGEST_TAG, write_manifest

NAME = "rlvo-ensemble"
GATES = {1: "passed: 8 patients", 2: "failed: a member differs", 3: None, 4: "Passed?", 5: ""}
"""What the gate of each version says."""


@pytest.fixture
def work(empty_database: Path, tmp_path: Path) -> Path:
    """A work folder; an alias was moved to version 2 by MLflow's own client."""
    client = MlflowClient(f"sqlite:///{shutil.copy(empty_database, tmp_path)}")
    client.create_registered_model(NAME)
    for number, gate in GATES.items():
        (folder := tmp_path / f"model-{number}").mkdir()
        (folder / "MLmodel").write_text(f"# {number}\n")
        tags = {DIGEST_TAG: write_manifest(folder)} | ({} if gate is None else {GATE_TAG: gate})
        client.create_model_version(NAME, str(folder), tags=tags)
    client.set_registered_model_alias(NAME, "champion", "2")
    client.set_registered_model_alias(NAME, "staging", "3")
    return tmp_path


@pytest.fixture
def tracking(work: Path) -> Tracking:
    return Tracking(f"sqlite:///{work / 'mlflow.db'}", work / "artifacts")


@pytest.mark.parametrize("name", ["", "@champion", "@staging", "/2", "/3", "/4", "/5"])
def test_a_version_whose_gate_failed_or_is_missing_is_refused(tracking: Tracking, name: str) -> None:
    for model in (NAME + name, f"models:/{NAME}{name}"):
        with pytest.raises(RlvoError, match="did not pass its gate") as error:
            admit_model(model, tracking)
        assert (error.value.exit_code, "\n" in str(error.value)) == (2, False)
        admitted = admit_model(model, tracking, ungated=True)
        assert admitted.caution == f"the model did not pass its gate ({admitted.gate})"


def test_one_that_passed_answers_without_a_caution(tracking: Tracking, work: Path) -> None:
    for model in (f"{NAME}/1", str(work / "model-1")):
        assert admit_model(model, tracking).caution is None
    assert admit_model(f"{NAME}/1", tracking).name == f"{NAME}/1"


def test_every_command_that_asks_or_hands_out_a_model_refuses_it(work: Path) -> None:
    (table := work / "table.csv").write_text("patient_id,ncct,cta,rlvo\na,b,c,0\n")
    to = ("--workdir", work)
    for model in (f"{NAME}@champion", f"{NAME}/3"):
        for command in (
            ("predict", model, table, "--json"),
            ("serve", model, "--data-root", work),
            ("bundle", model, "-o", work / "model.tar.gz"),
            ("evaluate", model, table),
            ("models", "compare", 1, model, table),
        ):
            assert "it did not pass its gate" in refused(*command, *to), command
    assert not (work / "model.tar.gz").exists()


def test_what_is_known_of_a_folders_gate_lies_beside_it(tracking: Tracking, work: Path) -> None:
    folder = str(work / "model-2")
    assert admit_model(folder, tracking).gate is None
    (work / RECORD).write_text("failed: a member differs\n")
    with pytest.raises(RlvoError, match=r"did not pass its gate \(failed: a member differs\)"):
        admit_model(folder, tracking)
    assert admit_model(folder, tracking, ungated=True).caution is not None


@pytest.fixture
def failed(registered: Registered) -> Iterator[Registered]:
    """A registered model that answers, marked as one whose gate failed."""
    client = MlflowClient(registered.study.workdir.tracking_uri())
    before = client.get_model_version(NAME, "1").tags[GATE_TAG]
    client.set_model_version_tag(NAME, "1", GATE_TAG, "failed: on trial")
    yield registered
    client.set_model_version_tag(NAME, "1", GATE_TAG, before)


@pytest.mark.slow
def test_on_demand_it_answers_and_every_answer_says_so(failed: Registered, tmp_path: Path) -> None:
    study, caution = failed.study, "the model did not pass its gate (failed: on trial)"
    (folder := tmp_path / "patients").symlink_to(study.cohort.parent)
    table = folder / "two.csv"
    development = study.raw[study.raw["patient_id"].isin(study.inputs.split.development)]
    development.head(2).drop(columns="rlvo").assign(smoking=None).to_csv(table, index=False)
    to = ("--workdir", study.workdir.path, "--ungated")
    answered = run("predict", NAME, table, "--json", *to)
    assert f"warning: {caution}" in answered.stderr
    for answer in json.loads(answered.stdout):
        first, second, *_ = answer["warnings"].split("; ")
        assert (first, second) == (caution, "imputed: Smoking")

    run("bundle", NAME, "-o", tmp_path / "model.tar.gz", *to)
    with tarfile.open(tmp_path / "model.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    unpacked = tmp_path / "rlvo-model"
    assert (unpacked / RECORD).read_text() == "failed: on trial\n"
    archive = tmp_path / "model.tar.gz"
    verify = [sys.executable, "-I", unpacked / "verify.py", archive, file_sha256(archive)]
    subprocess.run(verify, check=True)
    assert "did not pass its gate" in refused("predict", unpacked / "model", table, "--json")
    (unpacked / RECORD).unlink()
    assert subprocess.run(verify, check=False).returncode == 1


@pytest.mark.slow
def test_a_server_says_so_too(failed: Registered) -> None:
    study = failed.study
    options = ["--port", "0", "--data-root", study.cohort.parent, "--workdir", study.workdir.path, "--ungated"]
    command = [sys.executable, "-m", "rlvo.cli.main", "serve", NAME, *map(str, options)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            record = {"dataframe_records": [{"patient_id": "a"}]}
            post = ["-H", "Content-Type: application/json", "-d", json.dumps(record), f"{address}/invocations"]
            told = subprocess.run(["curl", "-s", *post], capture_output=True, text=True, check=True).stdout
            [answer] = json.loads(told)["predictions"]
        finally:
            process.terminate()
        assert answer["warnings"].startswith("the model did not pass its gate (failed: on trial); ")
