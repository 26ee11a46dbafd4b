"""Logging a model folder as an MLflow model that loads where rlvo is not installed, and registering it."""

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
from mlflow.models import Model, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, DataType

import rlvo
from rlvo import NOTICE
from rlvo.cohort.variables import VARIABLES, source_columns
from rlvo.registry import folder as model_folder
from rlvo.registry.inference import ANSWER_COLUMNS, VOLUMES
from rlvo.registry.location import ARTIFACT, CHAMPION, registry_at
from rlvo.registry.manifest import MANIFEST, write_manifest

PACKAGES = (
    "mlflow", "monai", "nibabel", "nilearn", "numpy", "pandas", "pandera", "pydantic", "pydicom", "python-gdcm",
    "ruamel.yaml",
    "safetensors", "scikit-learn", "scipy", "SimpleITK", "torch",
)  # fmt: skip
"""What inference imports; everything else of rlvo's dependencies is left out of the model's requirements."""


def register_ensemble(
    folder: Path, *, tracking_uri: str, run_id: str, name: str, tags: Mapping[str, str] | None = None
) -> str:
    """Log a model folder into the ensemble's run, register it under `name`, and give it the alias `champion`.

    What is logged names no patient and no path but MLflow's own artifact location.

    Args:
        folder: written by `rlvo.registry.folder.write_model_folder`.
        run_id: the ensemble's run; it is left FINISHED.
        tags: of the version, beside the hashes of split and data, the preparation's key and rlvo's version.

    Returns:
        The version.

    Raises:
        MachineError: the server does not answer, or refuses.
    """
    description = model_folder.read_description(folder)
    tags = {
        "rlvo.split_hash": description.spec.split_hash,
        "rlvo.data_hash": description.spec.data_hash,
        "rlvo.preparation": description.preparation,
        "rlvo.version": description.rlvo_version,
        **(tags or {}),
    }
    client = MlflowClient(tracking_uri)
    with registry_at(tracking_uri, name), _staged(folder) as (model, package), mlflow.start_run(run_id=run_id):
        logged = mlflow.pyfunc.log_model(
            name="ensemble",
            python_model="model.py",
            artifacts={ARTIFACT: model},
            code_paths=[package],
            signature=signature(description.predictors),
            input_example=(example(description.predictors), {"folder": "."}),
            pip_requirements=requirements(),
            metadata={"notice": NOTICE},
            # MLflow would name the user and the script's path.
            tags={**tags, "mlflow.user": "rlvo", "mlflow.source.name": "rlvo ensemble"},
        )
        _forget_staging(logged, client)
        tags["rlvo.manifest"] = _log_manifest(logged, client)
        with contextlib.redirect_stderr(io.StringIO()):  # two lines that say it is registered; our caller says so
            registered = mlflow.register_model(logged.model_uri, name, tags=tags)
        client.update_registered_model(name, description=NOTICE)
        client.set_registered_model_alias(name, CHAMPION, registered.version)
    return str(registered.version)


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


def _forget_staging(logged: ModelInfo, client: MlflowClient) -> None:
    """Write `MLmodel` again without the temporary folder that MLflow notes; it loads the entry file by its name."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "MLmodel"
        model = Model.load(logged.model_uri)
        model.flavors["python_function"]["model_code_path"] = "model.py"
        model.save(path)
        client.log_model_artifact(logged.model_id, str(path))


def _log_manifest(logged: ModelInfo, client: MlflowClient) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(mlflow.artifacts.download_artifacts(logged.model_uri, dst_path=temporary))
        digest = write_manifest(root)
        client.log_model_artifact(logged.model_id, str(root / MANIFEST))
        return digest


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
