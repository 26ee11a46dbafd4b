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
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from rlvo.errors import MachineError, RlvoError
from rlvo.registry import packaging
from rlvo.registry.inference import EnsemblePredictor
from rlvo.registry.location import locate_model
from rlvo.registry.packaging import register_ensemble

NUMBERS = ["score", "p_ncct", "p_cta", "p_both"]

FRESH = """
import importlib.util, os, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
assert importlib.util.find_spec("rlvo") is None
import mlflow, pandas
uri, model, table, folder, out = sys.argv[1:]
mlflow.set_tracking_uri(uri)
sys.modules.update(dict.fromkeys(["ray", "optuna", "typer", "matplotlib", "statsmodels"]))  # cannot be imported
loaded = mlflow.pyfunc.load_model(model)
loaded.predict(pandas.read_csv(table), params={"folder": folder}).to_json(out, orient="records", double_precision=15)
import rlvo
assert "artifacts" in rlvo.__file__, rlvo.__file__
"""


def predict_afresh(uri: str, model: str, table: Path, folder: Path, cwd: Path) -> pd.DataFrame:
    """As a user would who has no rlvo: another process, another folder."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"
    }
    command = [sys.executable, "-I", "-c", FRESH, uri, model, str(table), str(folder), str(cwd / "out.json")]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return pd.DataFrame(json.loads((cwd / "out.json").read_text()))


@pytest.fixture(scope="module")
def database(study: Any, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Registered in the embedded database; its address."""
    folder = tmp_path_factory.mktemp("embedded")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("tiny", artifact_location=str(folder / "mlflow-artifacts"))
    run = client.create_run(experiment, tags={"rlvo.kind": "ensemble"})
    before = os.getcwd()
    version = register_ensemble(
        model_folder, tracking_uri=uri, run_id=run.info.run_id, name="rlvo-ensemble", tags={"rlvo.study": "tiny"}
    )
    assert version == "1"
    assert os.getcwd() == before
    assert mlflow.active_run() is None
    assert "MLFLOW_TRACKING_URI" not in os.environ
    # Before anything loads it from there: Python then keeps compiled files beside the code.
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
    empty = model.predict(table.assign(cta=None), params={"folder": str(study.cohort.parent)})
    assert empty["score"].isna().all()
    assert empty["warnings"].str.contains("no CTA").all()


def test_what_is_stored_names_no_patient_no_person_and_no_folder_of_ours(
    study: Any, model_folder: Path, database: str
) -> None:
    client = MlflowClient(database)
    version = client.get_model_version_by_alias("rlvo-ensemble", "champion")
    assert version.tags["rlvo.split_hash"] == study.inputs.split.hash
    assert version.tags["rlvo.data_hash"] == study.inputs.data_hash
    assert version.tags["rlvo.study"] == "tiny"
    assert "never an indication" in client.get_registered_model("rlvo-ensemble").description
    root = locate_model("rlvo-ensemble", database).parents[1]
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
    assert model.tags["mlflow.user"] == model.tags["mlflow.source.name"].split()[0] == "rlvo"
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"


def test_requirements_are_pinned_to_what_is_installed(database: str) -> None:
    lines = (locate_model("rlvo-ensemble", database).parents[1] / "requirements.txt").read_text().split()
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
        str(found.parents[1]),
    ):
        assert (locate_model(name, database) / "ensemble.json").read_bytes() == expected
    assert locate_model(str(model_folder), "sqlite:///nowhere.db") == model_folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other@champion", "not in the registry"),
        ("rlvo-ensemble@old", "not in the registry"),
        ("rlvo-ensemble/7", "not in the registry"),
        ("/no/such/folder", "no model lies here"),
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
    study: Any, predictor: EnsemblePredictor, model_folder: Path, database: str, tmp_path: Path
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
        version = register_ensemble(model_folder, tracking_uri=uri, run_id=run.info.run_id, name="rlvo-ensemble")
        assert version == "2"
        fetched = EnsemblePredictor.load(locate_model("rlvo-ensemble", uri))
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
