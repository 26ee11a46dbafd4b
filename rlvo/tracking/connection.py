"""A quiet client of the tracking server, or of the database file in the work folder."""

from __future__ import annotations

import logging
import os
import re
import textwrap
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from rlvo.errors import MachineError

QUIET = {"mlflow": logging.WARNING, "mlflow.store.db": logging.CRITICAL, "urllib3": logging.ERROR}
"""MLflow tells of every table it makes, and prints a traceback of errors that it raises too; urllib3 of every retry."""


def connect(tracking_uri: str, experiment: str, artifacts: Path) -> tuple[MlflowClient, str]:
    """A client, and the id of the experiment, which is made where it is missing.

    Args:
        tracking_uri: a server (http, https) or a database (sqlite).
        experiment: its name.
        artifacts: artifact folder of an experiment in a database; a server has its own.

    Raises:
        MachineError: there is no answer, or a refusal.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # 4 s, not 4 min: whoever calls tries again
    os.environ.pop("MLFLOW_RUN_ID", None)  # it would override explicit run ids
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    is_server = tracking_uri.startswith(("http:", "https:"))
    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        found = client.get_experiment_by_name(experiment)
        if found is not None:
            return client, found.experiment_id
        return client, client.create_experiment(experiment, None if is_server else artifacts.absolute().as_uri())
    except (MlflowException, SQLAlchemyError) as error:
        raise MachineError(
            f"MLflow does not answer ({one_line(error)})",
            where=without_password(tracking_uri),
            fix="Start the server, or unset MLFLOW_TRACKING_URI to use the work folder's mlflow.db"
            if is_server
            else "Check that the folder can be written and the disk is not full",
        ) from None


def one_line(error: Exception) -> str:
    """The beginning of an error's message, without a password that an address in it may hold."""
    return without_password(textwrap.shorten(str(error), 160, placeholder=" …"))


def without_password(text: str) -> str:
    """`text` with user and password cut out of addresses."""
    return re.sub(r"//[^/@\s]*@", "//", text)
