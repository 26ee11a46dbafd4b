"""The registered model: what is in it, and that it gives the same answers where rlvo is not installed."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from support.mlflow_server import server
from support.processes import free_port
from support.tiny_study import TinyStudy

from rlvo.about import SOURCES
from rlvo.errors import MachineError, RlvoError
from rlvo.files import file_sha256
from rlvo.inference.description import read_description
from rlvo.inference.predictor import EnsemblePredictor
from rlvo.mlflow_client import Tracking
from rlvo.registry.gate import Evidence, Gate, check_version
from rlvo.registry.location import ARTIFACT_PATH, locate_model
from rlvo.registry.register import provenance, register_ensemble, requirements
from rlvo.study.trials import EndedTrials

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
    """Ask as a user who has no rlvo, or the one in `site`: in another process and another folder."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"
    }
    command = [sys.executable, "-I", "-c", FRESH, uri, model, str(table), str(folder), str(cwd / "out.json"), site]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return pd.DataFrame(json.loads((cwd / "out.json").read_text()))


def gate_of(model_folder: Path, evidence: Evidence) -> Callable[[Path], Gate]:
    return lambda root: check_version(root, read_description(model_folder), evidence)


@pytest.fixture(scope="module")
def evidence(study: TinyStudy, trials: EndedTrials) -> Evidence:
    return Evidence(trials.predictions, study.inputs.table, study.cohort.parent, study.workdir.store)


@pytest.fixture(scope="module")
def database(
    model_folder: Path, evidence: Evidence, empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Tracking:
    """Registered in the embedded database."""
    folder = tmp_path_factory.mktemp("embedded")
    tracking = Tracking(f"sqlite:///{shutil.copy(empty_database, folder)}", folder / "mlflow-artifacts")
    client, experiment = tracking.open_experiment("tiny")
    run_id = client.create_run(experiment, tags={"rlvo.kind": "ensemble"}).info.run_id
    before, environment = os.getcwd(), dict(os.environ)
    text = {"name": "rlvo-ensemble", "card": "# The card\n"}
    version = register_ensemble(
        model_folder,
        tracking,
        run_id=run_id,
        check=gate_of(model_folder, evidence),
        tags={"rlvo.study": "tiny"},
        **text,
    )
    assert (version, os.getcwd(), dict(os.environ)) == ("1", before, environment)
    assert mlflow.active_run() is None
    stored = list((folder / "mlflow-artifacts").rglob("*"))
    assert not [path for path in stored if path.name in ("__pycache__", "tests") or path.suffix == ".pyc"]
    assert {path.name for path in stored if path.suffix == ".csv"} <= {path.name for path in SOURCES.rglob("*.csv")}
    return tracking


@pytest.mark.slow
@pytest.mark.parametrize("installed", ["", "another rlvo"])
def test_a_fresh_process_without_rlvo_or_with_another_answers_alike(
    study: TinyStudy, predictor: EnsemblePredictor, database: Tracking, tmp_path: Path, installed: str
) -> None:
    site = ""
    if installed:
        site = str(tmp_path / "site")
        (tmp_path / "site/rlvo").mkdir(parents=True)
        (tmp_path / "site/rlvo/__init__.py").write_text("raise SystemExit('the wrong rlvo')\n")
    expected = predictor.predict(study.raw, study.cohort.parent)
    model = "models:/rlvo-ensemble/1" if installed else "models:/rlvo-ensemble@champion"
    got = predict_afresh(database.uri, model, study.cohort, study.cohort.parent, tmp_path, site=site)
    assert got.columns.tolist() == expected.columns.tolist()
    np.testing.assert_allclose(got[NUMBERS].to_numpy(float), expected[NUMBERS].to_numpy(float), rtol=0, atol=1e-6)
    for column in ("patient_id", "rlvo", "votes", "folds", "warnings", "notice"):
        assert got[column].tolist() == expected[column].tolist()
    assert not list(locate_model("rlvo-ensemble", database).glob("*/**/__pycache__"))


@pytest.mark.slow
def test_integers_booleans_text_and_empty_columns_pass_the_signature_that_the_registry_knows(
    study: TinyStudy, predictor: EnsemblePredictor, database: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database.uri)
    model = mlflow.pyfunc.load_model("models:/rlvo-ensemble@champion")
    expected = predictor.predict(study.raw.head(3), study.cohort.parent)
    table = study.raw.head(3).drop(columns="rlvo").assign(vessels=None, smoking=study.raw["smoking"].astype(bool))
    for given in (table, table.astype(object), table.assign(patient_id=[1, 2, 3]), table.astype(str)):
        got = model.predict(given, params={"folder": str(study.cohort.parent)})
        np.testing.assert_allclose(got["score"], expected["score"], rtol=0, atol=1e-6)
    empty = model.predict(table.assign(ncct=None, cta=None), params={"folder": str(study.cohort.parent)})
    assert empty["score"].isna().all()
    assert empty["warnings"].str.contains("not answered: ").all()
    signature = mlflow.models.get_model_info("models:/rlvo-ensemble@champion").signature
    assert signature is not None
    assert [column.name for column in signature.inputs if column.required] == ["patient_id"]
    assert [param.name for param in signature.params] == ["folder", "store", "members", "precision"]


def test_what_is_stored_names_no_patient_no_person_and_no_folder_of_ours(
    study: TinyStudy, model_folder: Path, database: Tracking
) -> None:
    client = database.client()
    version = client.get_model_version_by_alias("rlvo-ensemble", "champion")
    assert version.tags["rlvo.split_hash"] == study.inputs.split.hash
    assert version.tags["rlvo.data_hash"] == study.inputs.data_hash
    assert version.tags["rlvo.study"] == "tiny"
    assert version.tags["rlvo.gate"].startswith("passed: 8 patients")
    assert version.description == "# The card\n"
    assert "never an indication" in client.get_registered_model("rlvo-ensemble").description
    root = locate_model("rlvo-ensemble", database)
    assert version.tags["rlvo.manifest"] == file_sha256(root / "manifest.json")
    ours = (str(study.workdir.path).encode(), str(model_folder).encode())
    planted = [b"PLANTED", b"planted-hospital", *ours, b"/tmp/tmp"]
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"MLmodel", "requirements.txt", "input_example.json", "model.py"}
    for path in filter(None, [*files, database.database_file]):
        content = path.read_bytes()
        assert not [word for word in planted if word in content], path
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    assert model.status == "READY"
    assert not [tag for tag in model.tags if tag.startswith(("mlflow.user", "mlflow.source"))]
    run = client.get_run(version.run_id)
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]


@pytest.mark.slow
def test_a_version_that_fails_the_gate_gets_no_alias(
    model_folder: Path, evidence: Evidence, database: Tracking, tmp_path: Path
) -> None:
    assert database.database_file is not None
    tracking = Tracking(f"sqlite:///{shutil.copy(database.database_file, tmp_path)}", database.artifacts)
    client, experiment = tracking.open_experiment("tiny")
    moved = evidence.predictions.assign(probability=evidence.predictions["probability"] / 2)
    text = {"name": "rlvo-ensemble", "card": "# The card\n", "run_id": client.create_run(experiment).info.run_id}
    with pytest.raises(MachineError, match="version 2: registered without an alias, because a member does") as error:
        register_ensemble(
            model_folder, tracking, check=gate_of(model_folder, replace(evidence, predictions=moved)), **text
        )
    assert "\n" not in str(error.value)
    assert client.get_model_version_by_alias("rlvo-ensemble", "champion").version in (1, "1")
    assert client.get_model_version("rlvo-ensemble", "2").tags["rlvo.gate"].startswith("failed: a member does not")


def test_requirements_are_pinned_to_what_is_installed(database: Tracking) -> None:
    lines = (locate_model("rlvo-ensemble", database) / "requirements.txt").read_text().split()
    assert lines == requirements()
    for line in lines:
        package, _, version = line.partition("==")
        assert importlib.metadata.version(package).split("+")[0] == version


@pytest.mark.slow
def test_a_tracking_server_registers_and_gives_it_back(
    study: TinyStudy,
    predictor: EnsemblePredictor,
    model_folder: Path,
    evidence: Evidence,
    empty_database: Path,
    tmp_path: Path,
) -> None:
    shutil.copy(empty_database, tmp_path)  # a new one takes seconds to make
    port = free_port()
    tracking = Tracking(f"http://127.0.0.1:{port}", tmp_path / "unused")
    with server(tmp_path, port):
        client, experiment = tracking.open_experiment("served")
        text = {"name": "rlvo-ensemble", "card": "#", "run_id": client.create_run(experiment).info.run_id}
        assert register_ensemble(model_folder, tracking, check=gate_of(model_folder, evidence), **text) == "1"
        fetched = EnsemblePredictor.load(locate_model("rlvo-ensemble", tracking) / ARTIFACT_PATH)
        few = study.raw.head(3)
        got, expected = (p.predict(few, study.cohort.parent) for p in (fetched, predictor))
        np.testing.assert_array_equal(got["score"], expected["score"])
        with pytest.raises(RlvoError, match="not in the registry"):
            locate_model("rlvo-ensemble@old", tracking)


def test_provenance_names_settings_and_packages_and_no_path(study: TinyStudy) -> None:
    found = provenance(study.config)
    elsewhere = study.config.model_copy(
        update={"cohort": study.config.cohort.model_copy(update={"table": Path("b.csv")})}
    )
    assert found == provenance(elsewhere)
    assert found["study_hash"] != provenance(study.config.model_copy(update={"seed": 1}))["study_hash"]
    assert found["torch"].startswith("2")
    assert "/" not in "".join(found.values())
