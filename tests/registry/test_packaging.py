"""The registered model: what is in it, and that it answers alike where rlvo is not installed."""

import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from rlvo.ensemble.trials import Trials
from rlvo.errors import MachineError, RlvoError
from rlvo.files import file_sha256
from rlvo.registry import packaging
from rlvo.registry.gate import Evidence
from rlvo.registry.inference import EnsemblePredictor
from rlvo.registry.location import ARTIFACT_PATH, locate_model
from rlvo.registry.packaging import register_ensemble

NUMBERS = ["score", "p_ncct", "p_cta", "p_both"]

FRESH = """
import importlib.util, os, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
assert importlib.util.find_spec("rlvo") is None
import mlflow, pandas
uri, model, table, folder, out, site = sys.argv[1:]
if site:
    sys.path.insert(0, site)
    assert importlib.util.find_spec("rlvo").origin.startswith(site)
mlflow.set_tracking_uri(uri)
sys.modules.update(dict.fromkeys(["ray", "optuna", "typer", "matplotlib", "statsmodels"]))  # cannot be imported
loaded = mlflow.pyfunc.load_model(model)
loaded.predict(pandas.read_csv(table), params={"folder": folder}).to_json(out, orient="records", double_precision=15)
import rlvo
assert "artifacts" in rlvo.__file__, rlvo.__file__
"""


def predict_afresh(uri: str, model: str, table: Path, folder: Path, cwd: Path, site: str = "") -> pd.DataFrame:
    """As a user would who has no rlvo, or the one in `site`: another process, another folder."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"
    }
    command = [sys.executable, "-I", "-c", FRESH, uri, model, str(table), str(folder), str(cwd / "out.json"), site]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return pd.DataFrame(json.loads((cwd / "out.json").read_text()))


@pytest.fixture(scope="module")
def evidence(study: Any, trials: Trials) -> Evidence:
    return Evidence(trials.predictions, study.inputs.table, study.cohort.parent, study.workdir.store)


@pytest.fixture(scope="module")
def database(study: Any, model_folder: Path, evidence: Evidence, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Registered in the embedded database; its address."""
    folder = tmp_path_factory.mktemp("embedded")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("tiny", artifact_location=str(folder / "mlflow-artifacts"))
    run = client.create_run(experiment, tags={"rlvo.kind": "ensemble"})
    before = os.getcwd()
    version = register_ensemble(
        model_folder,
        tracking_uri=uri,
        run_id=run.info.run_id,
        name="rlvo-ensemble",
        evidence=evidence,
        card="# The card\n",
        tags={"rlvo.study": "tiny"},
    )
    assert version == "1"
    assert os.getcwd() == before
    assert mlflow.active_run() is None
    assert "MLFLOW_TRACKING_URI" not in os.environ
    stored = list((folder / "mlflow-artifacts").rglob("*"))
    assert not [path for path in stored if path.name in ("__pycache__", "tests") or path.suffix in (".pyc", ".csv")]
    return uri


def test_a_fresh_process_without_rlvo_answers_alike(
    study: Any, predictor: EnsemblePredictor, database: str, tmp_path: Path
) -> None:
    expected = predictor.predict(study.raw, study.cohort.parent)
    got = predict_afresh(database, "models:/rlvo-ensemble@champion", study.cohort, study.cohort.parent, tmp_path)
    assert got.columns.tolist() == expected.columns.tolist()
    np.testing.assert_allclose(got[NUMBERS].to_numpy(float), expected[NUMBERS].to_numpy(float), rtol=0, atol=1e-6)
    for column in ("patient_id", "rlvo", "votes", "folds", "warnings", "notice"):
        assert got[column].tolist() == expected[column].tolist()
    assert not list(locate_model("rlvo-ensemble", database).glob("*/**/__pycache__"))


@pytest.mark.slow
def test_another_rlvo_that_is_installed_makes_no_difference(
    study: Any, predictor: EnsemblePredictor, database: str, tmp_path: Path
) -> None:
    (tmp_path / "site/rlvo").mkdir(parents=True)
    (tmp_path / "site/rlvo/__init__.py").write_text("raise SystemExit('the wrong rlvo')\n")
    expected = predictor.predict(study.raw, study.cohort.parent)
    model, folder = "models:/rlvo-ensemble/1", study.cohort.parent
    got = predict_afresh(database, model, study.cohort, folder, tmp_path, site=str(tmp_path / "site"))
    np.testing.assert_allclose(got[NUMBERS].to_numpy(float), expected[NUMBERS].to_numpy(float), rtol=0, atol=1e-6)


def test_integers_booleans_text_and_empty_columns_pass_the_signature(
    study: Any, predictor: EnsemblePredictor, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    model = mlflow.pyfunc.load_model("models:/rlvo-ensemble@champion")
    expected = predictor.predict(study.raw.head(3), study.cohort.parent)
    table = study.raw.head(3).drop(columns="rlvo").assign(vessels=None, smoking=study.raw["smoking"].astype(bool))
    for given in (table, table.astype(object), table.assign(patient_id=[1, 2, 3]), table.astype(str)):
        got = model.predict(given, params={"folder": str(study.cohort.parent)})
        np.testing.assert_allclose(got["score"], expected["score"], rtol=0, atol=1e-6)
    empty = model.predict(table.assign(ncct=None, cta=None), params={"folder": str(study.cohort.parent)})
    assert empty["score"].isna().all()
    assert empty["warnings"].str.contains("not answered: ").all()


def test_what_is_stored_names_no_patient_no_person_and_no_folder_of_ours(
    study: Any, model_folder: Path, database: str
) -> None:
    client = MlflowClient(database)
    version = client.get_model_version_by_alias("rlvo-ensemble", "champion")
    assert version.tags["rlvo.split_hash"] == study.inputs.split.hash
    assert version.tags["rlvo.data_hash"] == study.inputs.data_hash
    assert version.tags["rlvo.study"] == "tiny"
    assert version.tags["rlvo.gate"].startswith("passed: 8 patients")
    assert version.description == "# The card\n"
    assert "never an indication" in client.get_registered_model("rlvo-ensemble").description
    root = locate_model("rlvo-ensemble", database)
    assert version.tags["rlvo.manifest"] == file_sha256(root / "manifest.json")
    planted = [
        b"PLANTED",
        b"planted-hospital",
        str(study.workdir.path).encode(),
        str(model_folder).encode(),
        b"/tmp/tmp",
    ]
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"MLmodel", "requirements.txt", "input_example.json", "model.py"}
    for path in [*files, Path(database.removeprefix("sqlite:///"))]:
        content = path.read_bytes()
        assert not [word for word in planted if word in content], path
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    assert model.status == "READY"
    assert not [tag for tag in model.tags if tag.startswith(("mlflow.user", "mlflow.source"))]
    run = client.get_run(version.run_id)
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]


def test_the_registry_knows_signature_and_parameters(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    signature = mlflow.models.get_model_info("models:/rlvo-ensemble@champion").signature
    assert signature is not None
    assert [column.name for column in signature.inputs if column.required] == ["patient_id"]
    assert [param.name for param in signature.params] == ["folder", "store", "members", "precision"]


@pytest.mark.slow
def test_a_version_that_fails_the_gate_gets_no_alias(
    model_folder: Path, evidence: Evidence, database: str, tmp_path: Path
) -> None:
    shutil.copyfile(database.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    run = client.create_run(client.get_experiment_by_name("tiny").experiment_id)
    moved = evidence.predictions.assign(probability=evidence.predictions["probability"] / 2)
    with pytest.raises(MachineError, match="version 2: registered without an alias, since a member does not") as error:
        register_ensemble(
            model_folder,
            tracking_uri=uri,
            run_id=run.info.run_id,
            name="rlvo-ensemble",
            evidence=replace(evidence, predictions=moved),
            card="# The card\n",
        )
    assert "\n" not in str(error.value)
    assert client.get_model_version_by_alias("rlvo-ensemble", "champion").version in (1, "1")
    assert client.get_model_version("rlvo-ensemble", "2").tags["rlvo.gate"].startswith("failed: a member does not")


def test_requirements_are_pinned_to_what_is_installed(database: str) -> None:
    lines = (locate_model("rlvo-ensemble", database) / "requirements.txt").read_text().split()
    assert lines == packaging.requirements()
    for line in lines:
        package, _, version = line.partition("==")
        assert importlib.metadata.version(package).split("+")[0] == version


def test_models_are_found_by_every_name(database: str, model_folder: Path) -> None:
    expected = (model_folder / "ensemble.json").read_bytes()
    found = locate_model("rlvo-ensemble", database)
    for name in (
        "rlvo-ensemble@champion",
        "models:/rlvo-ensemble@champion",
        "models:/rlvo-ensemble/1",
        str(found),
    ):
        assert (locate_model(name, database) / ARTIFACT_PATH / "ensemble.json").read_bytes() == expected


def test_an_altered_version_is_refused_by_every_name(database: str, tmp_path: Path) -> None:
    root = Path(shutil.copytree(locate_model("rlvo-ensemble", database), tmp_path / "copy"))
    (root / "code/rlvo/errors.py").write_text("")
    with pytest.raises(RlvoError, match=r"code/rlvo/errors\.py"):
        locate_model(str(root), database)
    stored = locate_model("rlvo-ensemble", database) / "code/rlvo/errors.py"
    original = stored.read_bytes()
    try:
        stored.write_bytes(original + b"\n")
        with pytest.raises(RlvoError, match=r"code/rlvo/errors\.py"):
            locate_model("rlvo-ensemble", database)
    finally:
        stored.write_bytes(original)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other@champion", "not in the registry"),
        ("rlvo-ensemble@old", "not in the registry"),
        ("rlvo-ensemble/7", "not in the registry"),
        ("/no/such/folder", "no model lies here"),
        ("/", "no model lies here"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(database: str, name: str, message: str) -> None:
    with pytest.raises(RlvoError, match=message) as error:
        locate_model(name, database)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_a_server_that_is_away_is_the_machines_fault() -> None:
    with pytest.raises(MachineError, match="does not answer") as error:
        locate_model("rlvo-ensemble", "http://127.0.0.1:9")
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)


def test_a_work_folder_without_a_registry_is_said_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(RlvoError, match="no registry"):
        locate_model("rlvo-ensemble", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_tracking_server_registers_and_gives_it_back(
    study: Any, predictor: EnsemblePredictor, model_folder: Path, evidence: Evidence, database: str, tmp_path: Path
) -> None:
    shutil.copyfile(database.removeprefix("sqlite:///"), tmp_path / "server.db")  # a new one takes seconds to make
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path / 'server.db'}",
        "--artifacts-destination",
        str(tmp_path / "a"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, *store], cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        uri = f"http://127.0.0.1:{port}"
        client = MlflowClient(wait_for(uri, tmp_path / "log"))
        run = client.create_run(client.create_experiment("served"))
        version = register_ensemble(
            model_folder, tracking_uri=uri, run_id=run.info.run_id, name="rlvo-ensemble", evidence=evidence, card="#"
        )
        assert version == "2"
        fetched = EnsemblePredictor.load(locate_model("rlvo-ensemble", uri) / ARTIFACT_PATH)
        few = study.raw.head(3)
        got, expected = (p.predict(few, study.cohort.parent) for p in (fetched, predictor))
        np.testing.assert_array_equal(got["score"], expected["score"])
        with pytest.raises(RlvoError, match="not in the registry"):
            locate_model("rlvo-ensemble@old", uri)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def wait_for(uri: str, log: Path) -> str:
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return uri
    raise AssertionError(log.read_text())
