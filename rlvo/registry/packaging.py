"""A model folder as an MLflow model that loads where rlvo is not installed: writing it, and registering it."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, DataType

import rlvo
from rlvo import NOTICE
from rlvo.cohort.variables import VARIABLES, source_columns
from rlvo.errors import MachineError
from rlvo.registry import folder as model_folder
from rlvo.registry.card import LIMIT
from rlvo.registry.gate import Evidence, check_version
from rlvo.registry.inference import ANSWER_COLUMNS
from rlvo.registry.location import ARTIFACT, locate_model, registry_at
from rlvo.registry.manifest import DIGEST_TAG, write_manifest
from rlvo.registry.patients import VOLUMES
from rlvo.registry.versions import make_champion

PACKAGES = (
    "mlflow", "monai", "nibabel", "nilearn", "numpy", "pandas", "pandera", "pydantic", "pydicom", "python-gdcm",
    "ruamel.yaml",
    "safetensors", "scikit-learn", "scipy", "SimpleITK", "torch",
)  # fmt: skip
"""What inference imports; everything else of rlvo's dependencies is left out of the model's requirements."""


def register_ensemble(
    folder: Path,
    *,
    tracking_uri: str,
    run_id: str,
    name: str,
    evidence: Evidence,
    card: str,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Log a model folder into the ensemble's run, register it under `name`, and make it the champion if it passes.

    The version, fetched as anyone would fetch it, must pass `gate.check_version` before it gets the alias. What is
    logged names no patient and no path but MLflow's own artifact location.

    Args:
        folder: written by `rlvo.registry.folder.write_model_folder`.
        run_id: the ensemble's run.
        evidence: what the version must reproduce.
        card: the model card; the version's description, and `card.md` within the model.
        tags: of the version, beside its provenance.

    Returns:
        The version.

    Raises:
        MachineError: the server does not answer, or refuses; or the version does not pass, and stays without alias.
    """
    description = model_folder.read_description(folder)
    tags = {f"rlvo.{key}": value for key, value in description.provenance.items()} | {
        "rlvo.split_hash": description.spec.split_hash,
        "rlvo.data_hash": description.spec.data_hash,
        "rlvo.preparation": description.preparation,
        "rlvo.version": description.rlvo_version,
        **(tags or {}),
    }
    with registry_at(tracking_uri, name), tempfile.TemporaryDirectory() as temporary:
        client = MlflowClient()
        package = Path(temporary) / "package"
        tags[DIGEST_TAG] = package_model(folder, package, card)
        run = client.get_run(run_id)
        logged = client.create_logged_model(
            run.info.experiment_id, "ensemble", run_id, tags=tags, params=run.data.params, model_type="ensemble"
        )
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        client.log_model_artifacts(logged.model_id, str(package))
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        with contextlib.redirect_stderr(io.StringIO()):  # two lines that say it is registered; our caller says so
            version = str(mlflow.register_model(logged.model_uri, name, tags=tags).version)
        client.update_model_version(name, version, card[:LIMIT])
        client.update_registered_model(name, description=NOTICE)
    passed = check_version(locate_model(f"{name}/{version}", tracking_uri), description, evidence)
    with registry_at(tracking_uri, name):
        for key, value in passed.tags.items():
            client.set_model_version_tag(name, version, key, value)
        if passed.failure is None:
            make_champion(client, name, version)
    if passed.failure is not None:
        raise MachineError(
            f"registered without an alias, since {passed.failure}",
            where=f"{name} version {version}",
            fix="Register it again on the machine and with the packages it was trained with",
        )
    return version


def package_model(folder: Path, package: Path, card: str) -> str:
    """Write a model folder as a complete MLflow model into the new folder `package`; its manifest's SHA-256.

    Args:
        card: the model card; `card.md` within.
    """
    description = model_folder.read_description(folder)
    package = package.resolve()
    with _staged(folder) as (model, code):
        mlflow.pyfunc.save_model(
            package,
            python_model="model.py",
            artifacts={ARTIFACT: model},
            code_paths=[code],
            signature=signature(description.predictors),
            input_example=(example(description.predictors), {"folder": "."}),
            pip_requirements=requirements(),
            metadata={"notice": NOTICE},
        )
    saved = Model.load(package)
    # MLflow notes the staging folder; it loads the entry file by its name.
    saved.flavors["python_function"]["model_code_path"] = "model.py"
    saved.save(package / "MLmodel")
    (package / "card.md").write_text(card)
    for compiled in package.rglob("__pycache__"):
        shutil.rmtree(compiled)
    return write_manifest(package)


def signature(predictors: tuple[str, ...]) -> ModelSignature:
    """Cells of any type, since typed columns refuse integers, booleans and empty columns; only the id is required."""
    takes = [ColSpec(AnyType(), name, required=name == "patient_id") for name in example(predictors).columns]
    answers = [ColSpec(AnyType(), name) for name in ANSWER_COLUMNS]
    params = ParamSchema(
        [
            ParamSpec("folder", DataType.string, "."),
            ParamSpec("store", DataType.string, ""),
            ParamSpec("members", DataType.boolean, False),
            ParamSpec("precision", DataType.string, "float32"),
        ]
    )
    return ModelSignature(Schema([*takes]), Schema([*answers]), params)


def example(predictors: tuple[str, ...]) -> pd.DataFrame:
    """One made-up patient with the columns the model takes; its files do not exist."""
    row: dict[str, object] = {"patient_id": "example-1", **{name: f"example-1/{name}.nii.gz" for name in VOLUMES}}
    for column in source_columns(predictors):
        variable = VARIABLES[column]
        middle = 0.0 if variable.low is None or variable.high is None else (variable.low + variable.high) / 2
        row[column] = variable.levels[0] if variable.levels else middle
    return pd.DataFrame([row])


def requirements() -> list[str]:
    """The installed versions of what inference imports, pinned."""
    return [f"{package}=={version(package).split('+')[0]}" for package in PACKAGES]


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[tuple[str, str]]:
    """The model folder and rlvo's sources in a temporary folder that is the working directory meanwhile.

    MLflow writes the paths it is given into the model, so it is given relative ones.
    """
    sources = Path(rlvo.__file__).parent
    with tempfile.TemporaryDirectory() as staging, contextlib.chdir(staging):
        shutil.copytree(folder, ARTIFACT)
        shutil.copytree(sources, "rlvo", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(sources / "registry" / "model.py", "model.py")
        yield ARTIFACT, "rlvo"
