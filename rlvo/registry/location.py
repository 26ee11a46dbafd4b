"""Finding a model: a folder, or a name in the registry."""

from __future__ import annotations

import logging
import os
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from rlvo.errors import MachineError, RlvoError
from rlvo.registry.folder import DESCRIPTION

CHAMPION = "champion"
"""Alias of the version in use."""
ARTIFACT = "model"
"""The model folder's name within the MLflow model."""
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
    """The model folder of a model; one on a server is fetched.

    Args:
        model: a model folder, an MLflow model's folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `NAME@ALIAS`,
            `NAME/VERSION`, or `NAME` for its champion.
        tracking_uri: of the registry.

    Raises:
        RlvoError: there is no such model.
        MachineError: the server does not answer.
    """
    path = Path(model).expanduser()
    for folder in (path, path / "artifacts" / ARTIFACT):
        if (folder / DESCRIPTION).is_file():
            return folder
    if path.is_dir() or not re.fullmatch(r"(models:/)?[\w.-]+([@/][\w.-]+)?", model):
        fix = "Name a registered model, e.g. rlvo-ensemble@champion, or a model folder"
        raise RlvoError("no model lies here", where=model, fix=fix)
    if tracking_uri.startswith(DATABASE) and not Path(tracking_uri.removeprefix(DATABASE)).is_file():
        fix = "Run 'rlvo ensemble' first, or name the right --workdir"
        raise RlvoError("there is no registry in this work folder", where=model, fix=fix)
    name = model.removeprefix("models:/")
    uri = f"models:/{name}" if re.search("[@/]", name) else f"models:/{name}@{CHAMPION}"
    with registry_at(tracking_uri, model):
        return Path(mlflow.artifacts.download_artifacts(f"{uri}/artifacts/{ARTIFACT}"))
