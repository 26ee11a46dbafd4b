"""Finding a model by its folder or its name in the registry, and verifying every file of it."""

import atexit
import json
import re
import shutil
import tempfile
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion

from rlvo.errors import RlvoError
from rlvo.files import atomic_write, file_sha256
from rlvo.mlflow_client import Tracking
from rlvo.registry.model import MANIFEST, AlteredModelError, check_files, model_files

CHAMPION = "champion"
"""Alias of the version in use."""
ARTIFACT = "model"
"""The model folder's name among the MLflow model's artifacts."""
ARTIFACT_PATH = f"artifacts/{ARTIFACT}"
"""The model folder's path within the MLflow model."""
DIGEST_TAG = "rlvo.manifest"
"""Tag of a version: SHA-256 of its manifest."""


def locate_model(model: str, tracking: Tracking) -> Path:
    """The folder of an MLflow model, every file of it verified; a model on a server is downloaded.

    Args:
        model: an MLflow model's folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `NAME@ALIAS`, `NAME/VERSION`, or
            `NAME` for its champion.
        tracking: whose registry to look in.

    Raises:
        RlvoError: there is no such model, or it is not what was registered.
        MachineError: the registry does not answer.
    """
    if is_folder(model):
        path = Path(model).expanduser()
        verify(path)
        return path
    version = find_version(model, tracking)
    with tracking.registry(model) as client:
        into = None
        if tracking.database_file is None:  # a database's artifacts are files beside it and are used where they are
            into = tempfile.mkdtemp(prefix="rlvo-model-")
            atexit.register(shutil.rmtree, into, ignore_errors=True)
        artifacts = client.get_model_version_download_uri(version.name, version.version)
        root = Path(mlflow.artifacts.download_artifacts(artifacts, dst_path=into, tracking_uri=tracking.uri))
    if DIGEST_TAG not in version.tags:
        fix = "Register the ensemble again"
        raise RlvoError(f"the version has no tag {DIGEST_TAG}, so it cannot be verified", where=model, fix=fix)
    verify(root, version.tags[DIGEST_TAG])
    return root


def is_folder(model: str) -> bool:
    """Whether this names the folder of an MLflow model."""
    return (Path(model).expanduser() / "MLmodel").is_file()


def find_version(model: str, tracking: Tracking) -> ModelVersion:
    """The registered version of this name, as `locate_model` takes it, but not a folder. Raises as `locate_model`."""
    named = re.fullmatch(r"(?:models:/)?(?P<name>[^@/:]+)(?:@(?P<alias>[\w.-]+)|/(?P<version>\d+))?", model)
    if Path(model).expanduser().is_dir() or named is None:
        fix = f"Name a registered model, e.g. rlvo-ensemble@{CHAMPION}, or the folder of one"
        raise RlvoError("there is no model here", where=model, fix=fix)
    name, alias, number = named.group("name", "alias", "version")
    with tracking.registry(model) as client:
        if number:
            return client.get_model_version(name, number)
        return client.get_model_version_by_alias(name, alias or CHAMPION)


def write_manifest(root: Path) -> str:
    """Write what every file of the MLflow model in `root` is at registration; return the manifest's SHA-256."""
    digests = {name: file_sha256(root / name) for name in sorted(model_files(root))}
    atomic_write(root / MANIFEST, json.dumps(digests, indent=1))
    return file_sha256(root / MANIFEST)


def verify(root: Path, digest: str | None = None) -> None:
    """Check every file of the MLflow model in `root` before anything of it is imported.

    Compiled files that an earlier loading left beside the entry file are deleted: Python would run them in its place.

    Args:
        digest: SHA-256 of the manifest, as the registry's version tag has it; None: the manifest is taken at its word.

    Raises:
        RlvoError: a file is missing, altered or was added, or the manifest is not the registered one.
    """
    fix = "Fetch the model again, or register the ensemble again; do not use this one"
    if digest is not None and (not (root / MANIFEST).is_file() or file_sha256(root / MANIFEST) != digest):
        raise RlvoError(f"{MANIFEST} is not the one that was registered", where=root, fix=fix)
    try:
        check_files(root)
    except AlteredModelError as error:
        raise RlvoError(str(error), where=root, fix=fix) from None
    compiled = root / "__pycache__"
    shutil.rmtree(compiled, ignore_errors=True)
    if compiled.exists():
        raise RlvoError("the folder holds compiled files that cannot be deleted", where=compiled, fix="Delete it")
