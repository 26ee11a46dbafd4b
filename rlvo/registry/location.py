"""Finding a model by its folder or its name in the registry, and verifying it."""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from rlvo.errors import MachineError, RlvoError
from rlvo.registry.manifest import DIGEST_TAG, verify

CHAMPION = "champion"
"""Alias of the version in use."""
ARTIFACT = "model"
"""The model folder's name among the MLflow model's artifacts."""
ARTIFACT_PATH = f"artifacts/{ARTIFACT}"
"""The model folder's path within the MLflow model."""
DATABASE = "sqlite:///"


@contextmanager
def registry_at(tracking_uri: str, model: str) -> Iterator[None]:
    """MLflow's own calls go to one server or database inside, quietly. The environment is as before afterwards.

    `mlflow.set_tracking_uri` alone would leave `MLFLOW_TRACKING_URI` set, which wins over every work folder.

    Raises:
        RlvoError: what is asked for is not there; `model` names it.
        MachineError: the server does not answer, or refuses.
    """
    before = dict(os.environ)
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.WARNING)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # 4 s for a server that is away, not 4 min
    os.environ.pop("MLFLOW_RUN_ID", None)  # it would override explicit run ids
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    try:
        yield
    except MlflowException as error:
        reason = textwrap.shorten(str(error), 160, placeholder=" …")
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise RlvoError(f"not in the registry ({reason})", where=model, fix="See 'rlvo ensemble'") from None
        fix = "Check the server, or MLFLOW_TRACKING_URI"
        raise MachineError(f"the registry does not answer ({reason})", where=model, fix=fix) from None
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        mlflow.set_registry_uri(None)  # type: ignore[arg-type]
        os.environ.clear()
        os.environ.update(before)
        logger.setLevel(level)


def locate_model(model: str, tracking_uri: str) -> Path:
    """The MLflow model's folder, every file of it verified; one on a server is fetched.

    Args:
        model: an MLflow model's folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `NAME@ALIAS`, `NAME/VERSION`, or
            `NAME` for its champion.
        tracking_uri: of the registry.

    Raises:
        RlvoError: there is no such model, or it is not what was registered.
        MachineError: the server does not answer.
    """
    path = Path(model).expanduser()
    if (path / "MLmodel").is_file():
        verify(path)
        return path
    version = find_version(model, tracking_uri)
    with registry_at(tracking_uri, model):
        # A database's artifacts are files beside it and are used where they lie.
        into = None if tracking_uri.startswith(DATABASE) else _temporary_folder()
        uri = f"models:/{version.name}/{version.version}"
        root = Path(mlflow.artifacts.download_artifacts(uri, dst_path=into))
    if DIGEST_TAG not in version.tags:
        fix = "Register the ensemble again"
        raise RlvoError(f"the version has no tag {DIGEST_TAG}, so it cannot be verified", where=model, fix=fix)
    verify(root, version.tags[DIGEST_TAG])
    return root


def find_version(model: str, tracking_uri: str) -> ModelVersion:
    """The registered version of this name: as `locate_model` takes it, but no folder's. Raises as it does."""
    named = re.fullmatch(r"(?:models:/)?(?P<name>[\w.-]+)(?:@(?P<alias>[\w.-]+)|/(?P<version>\d+))?", model)
    if Path(model).expanduser().is_dir() or named is None:
        fix = f"Name a registered model, e.g. rlvo-ensemble@{CHAMPION}, or the folder of one"
        raise RlvoError("no model lies here", where=model, fix=fix)
    check_registry(tracking_uri, model)
    name, alias, number = named.group("name", "alias", "version")
    with registry_at(tracking_uri, model):
        client = MlflowClient()
        version = (
            client.get_model_version(name, number)
            if number
            else client.get_model_version_by_alias(name, alias or CHAMPION)
        )
    return version


def check_registry(tracking_uri: str, model: str) -> None:
    """Raise RlvoError where the database is not there yet: MLflow would make one."""
    if tracking_uri.startswith(DATABASE) and not Path(tracking_uri.removeprefix(DATABASE)).is_file():
        fix = "Run 'rlvo ensemble' first, or name the right --workdir"
        raise RlvoError("there is no registry in this work folder", where=model, fix=fix)


def _temporary_folder() -> str:
    """Deleted when the process ends."""
    folder = tempfile.mkdtemp(prefix="rlvo-model-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
