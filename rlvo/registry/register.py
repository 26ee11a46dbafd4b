"""Registering an ensemble: a model folder becomes an MLflow model that loads where rlvo is not installed."""

import contextlib
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, DataType

from rlvo.about import NOTICE, SOURCES, source_commit
from rlvo.cohort.variables import VOLUMES, known_variables, source_columns
from rlvo.config.base import content_hash
from rlvo.config.predictors import OwnPredictor
from rlvo.config.study import StudyConfig
from rlvo.errors import MachineError
from rlvo.files import file_sha256
from rlvo.inference.description import read_description
from rlvo.inference.predictor import ANSWER_COLUMNS
from rlvo.mlflow_client import Tracking
from rlvo.registry.card import CARD, shorten
from rlvo.registry.gate import Gate
from rlvo.registry.location import ARTIFACT, DIGEST_TAG, locate_model, write_manifest
from rlvo.registry.versions import make_champion

PACKAGES = (
    "mlflow", "monai", "nibabel", "nilearn", "numpy", "pandas", "pydantic", "pydicom", "python-gdcm", "ruamel.yaml",
    "safetensors", "scikit-learn", "scipy", "SimpleITK", "torch",
)  # fmt: skip
"""What inference imports; the model's requirements leave out all other dependencies of rlvo."""
NAMED_PACKAGES = ("mlflow", "monai", "numpy", "SimpleITK", "torch")
"""Packages whose versions are part of a model's provenance."""


def register_ensemble(
    folder: Path,
    tracking: Tracking,
    *,
    run_id: str,
    name: str,
    check: Callable[[Path], Gate],
    card: str,
    tags: Mapping[str, str] | None = None,
    champion: bool = True,
) -> str:
    """Log a model folder into the ensemble's run, register it under `name`, and make it the champion if it passes.

    The version, fetched as anyone would fetch it, must pass its gate before it gets the alias. What is logged names no
    patient and no path but MLflow's own artifact location.

    Args:
        folder: written by `rlvo.inference.description.write_model_folder`.
        check: the gate, `gate.check_version` for a new ensemble; given the MLflow model folder.
        card: the model card: the version's description, and `card.md` within the model.
        tags: tags of the version, besides its provenance.
        champion: whether it gets the alias if it passes.

    Returns:
        The version's number.

    Raises:
        MachineError: the registry does not answer; or the version does not pass, and is left without an alias.
    """
    tags = version_tags(folder) | {**(tags or {})}
    with tempfile.TemporaryDirectory() as temporary:
        package = Path(temporary) / "package"
        tags[DIGEST_TAG] = package_model(folder, package, card)
        number = log_version(package, tracking, run_id=run_id, name=name, tags=tags, card=card)
    passed = check(locate_model(f"{name}/{number}", tracking))
    with tracking.registry(name) as client:
        for key, value in passed.tags.items():
            client.set_model_version_tag(name, number, key, value)
        if champion and passed.failure is None:
            make_champion(client, name, number)
    if passed.failure is not None:
        raise MachineError(
            f"registered without an alias, because {passed.failure}",
            where=f"{name} version {number}",
            fix="Register it again on the machine and with the packages it was trained with",
        )
    return number


def version_tags(folder: Path) -> dict[str, str]:
    """The tags of a version that a model folder itself gives: its provenance."""
    description = read_description(folder)
    return {f"rlvo.{key}": value for key, value in description.provenance.items()} | {
        "rlvo.split_hash": description.spec.split_hash,
        "rlvo.data_hash": description.spec.data_hash,
        "rlvo.preparation": description.preparation,
        "rlvo.version": description.rlvo_version,
        **({"rlvo.synthetic": "true"} if description.cohort is not None and description.cohort.synthetic else {}),
    }


def log_version(
    package: Path, tracking: Tracking, *, run_id: str, name: str, tags: Mapping[str, str], card: str
) -> str:
    """Log an MLflow model folder into a run, and register it under `name`; return the version's number.

    Raises MachineError if the registry does not answer.
    """
    with tracking.registry(name) as client:
        run = client.get_run(run_id)
        logged = client.create_logged_model(
            run.info.experiment_id, "ensemble", run_id, tags={**tags}, params=run.data.params, model_type="ensemble"
        )
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        client.log_model_artifacts(logged.model_id, str(package))
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        number = tracking.register(logged.model_uri, name, tags)
        client.update_model_version(name, number, shorten(card))
        client.update_registered_model(name, description=NOTICE)
    return number


def package_model(folder: Path, package: Path, card: str) -> str:
    """Write a model folder and its card as an MLflow model to the new `package`; return its manifest's SHA-256."""
    description = read_description(folder)
    package = package.resolve()
    with _staged(folder) as (model, code):
        mlflow.pyfunc.save_model(
            package,
            python_model="model.py",
            artifacts={ARTIFACT: model},
            code_paths=[code],
            signature=signature(description.predictors, description.own),
            input_example=(example(description.predictors, description.own), {"folder": "."}),
            pip_requirements=requirements(),
            metadata={"notice": NOTICE},
        )
    saved = Model.load(package)
    # MLflow notes the path in the staging folder, although it loads the entry file by its name.
    saved.flavors["python_function"]["model_code_path"] = "model.py"
    saved.save(package / "MLmodel")
    (package / CARD).write_text(card)
    for compiled in package.rglob("__pycache__"):
        shutil.rmtree(compiled)
    return write_manifest(package)


def signature(predictors: tuple[str, ...], own: tuple[OwnPredictor, ...] = ()) -> ModelSignature:
    """Cells of any type, because typed columns refuse integers, booleans and empty columns; only the id is required."""
    anything = AnyType()  # type: ignore[no-untyped-call]
    inputs = [ColSpec(anything, name, required=name == "patient_id") for name in example(predictors, own).columns]
    outputs = [ColSpec(anything, name) for name in ANSWER_COLUMNS]
    params = [
        ParamSpec("folder", DataType.string, "."),
        ParamSpec("store", DataType.string, ""),
        ParamSpec("members", DataType.boolean, False),
        ParamSpec("precision", DataType.string, "float32"),
    ]
    return ModelSignature(Schema([*inputs]), Schema([*outputs]), ParamSchema(params))


def example(predictors: tuple[str, ...], own: tuple[OwnPredictor, ...] = ()) -> pd.DataFrame:
    """One made-up patient with the columns the model takes; the files do not exist."""
    row: dict[str, object] = {"patient_id": "example-1", **{name: f"example-1/{name}.nii.gz" for name in VOLUMES}}
    variables = known_variables(own)
    for column in source_columns(predictors):
        variable = variables[column]
        middle = (variable.low + variable.high) / 2 if variable.kind == "continuous" else 0.0
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
    with tempfile.TemporaryDirectory() as staging, contextlib.chdir(staging):
        shutil.copytree(folder, ARTIFACT)
        shutil.copytree(SOURCES, "rlvo", ignore=shutil.ignore_patterns("__pycache__", "shipped"))
        shutil.copyfile(SOURCES / "registry" / "model.py", "model.py")
        yield ARTIFACT, "rlvo"


def provenance(study: StudyConfig) -> dict[str, str]:
    """For `ModelDescription.provenance`: hashes of settings and sources, commit, and versions. Holds no path.

    Hashes of split and data are the ensemble's own.

    Args:
        study: as it was frozen. Where files and MLflow are and what a trial may use is left out of its hash.
    """
    settings = study.model_dump(
        mode="json", exclude={"cohort": {"table"}, "atlas": True, "resources": True, "mlflow": True, "ablation": True}
    )
    return {"study": study.name, "study_hash": content_hash(settings), **code_provenance()}


def code_provenance() -> dict[str, str]:
    """The part of `provenance` that is about the code a model is packed with, and about what it runs on."""
    commit = {} if (found := source_commit(SOURCES)) is None else {"commit": found}
    packages = {package.lower(): version(package) for package in NAMED_PACKAGES}
    return {"code_hash": code_hash(SOURCES), **commit, "python": platform.python_version(), **packages}


def code_hash(sources: Path) -> str:
    """SHA-256 over a package's modules, by name and content."""
    modules = sorted(sources.rglob("*.py"))
    return content_hash({path.relative_to(sources).as_posix(): file_sha256(path) for path in modules})
