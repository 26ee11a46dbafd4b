"""The one connection to MLflow: quiet, bounded in time, its errors in one line."""

import contextlib
import io
import logging
import os
import re
import textwrap
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow reads it while it is imported
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # standard output is for --json
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # gives up after 4 s instead of 4 min: callers try again

import mlflow
import sqlalchemy
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from rlvo.config.commands import command_line
from rlvo.errors import MachineError, RlvoError, encode_password, hide_passwords

LOG_LEVELS = {"mlflow": logging.WARNING, "mlflow.store.db": logging.CRITICAL, "urllib3": logging.ERROR}
"""MLflow announces every table it creates and prints tracebacks of errors it also raises; urllib3 logs every retry."""
DATABASE_FILE = "sqlite:///"
UI = "http://127.0.0.1:5000/"
"""Where `rlvo ui` shows a work folder, unless the port is taken or another one is named."""
_GLOBAL_ADDRESS = threading.Lock()


@dataclass(frozen=True)
class Tracking:
    """Where runs and models are kept.

    Args:
        uri: address of a server (http, https) or of a database (sqlite, postgresql); its password may hold any
            character, percent-encoded or not.
        artifacts: the work folder's, for experiments in a database; a server has its own.
    """

    uri: str
    artifacts: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", encode_password(self.uri))

    @property
    def is_server(self) -> bool:
        return self.uri.startswith(("http:", "https:"))

    @property
    def database_file(self) -> Path | None:
        """The file, if runs and models are kept in a database file."""
        return Path(self.uri.removeprefix(DATABASE_FILE)) if self.uri.startswith(DATABASE_FILE) else None

    def client(self) -> MlflowClient:
        """A client that prints nothing. Creates the database if there is none."""
        for name, level in LOG_LEVELS.items():
            logging.getLogger(name).setLevel(level)
        if re.match(r"(postgresql|mysql|mssql)\b", self.uri):  # one that refuses is tried for 100 s by MLflow
            sqlalchemy.create_engine(self.uri).connect().close()
        return MlflowClient(self.uri, self.uri)

    def open_experiment(self, name: str) -> tuple[MlflowClient, str]:
        """A client and the id of an experiment, which is created if there is none.

        Raises:
            MachineError: MLflow does not answer, or refuses.
        """
        location = None if self.is_server else self.artifacts.absolute().as_uri()
        try:
            client = self.client()
            found = client.get_experiment_by_name(name)
            return client, found.experiment_id if found else client.create_experiment(name, location)
        except (MlflowException, SQLAlchemyError, ImportError) as error:
            fix = "Start the server, or unset MLFLOW_TRACKING_URI to use the work folder's mlflow.db"
            if self.database_file is not None:
                fix = "Check that the folder can be written and the disk is not full"
            raise MachineError(f"MLflow does not answer ({one_line(error)})", where=self.uri, fix=fix) from None

    def trouble(self, seconds: float = 10) -> str | None:
        """Why MLflow does not answer, in one line; None if it does, or keeps runs in a file.

        Args:
            seconds: how long to wait at most.
        """
        if self.database_file is not None:
            return None
        found: list[str | None] = [f"no answer within {seconds:g} s"]

        def ask() -> None:
            try:
                self.client().search_experiments(max_results=1)
                found[0] = None
            except (MlflowException, SQLAlchemyError, ImportError) as error:
                found[0] = one_line(error)

        asking = threading.Thread(target=ask, name="mlflow-trouble", daemon=True)  # an address may swallow all
        asking.start()
        asking.join(seconds)
        return found[0]

    @property
    def ui(self) -> str:
        """Where a browser finds the UI, without a password: a server's own address, else that of `rlvo ui`."""
        return re.sub(r"//[^/]*@", "//", self.uri).rstrip("/") + "/" if self.is_server else UI

    @contextlib.contextmanager
    def registry(self, model: str) -> Iterator[MlflowClient]:
        """A client of the model registry; what goes wrong inside the context is an error about `model`.

        Raises:
            RlvoError: there is no registry, or what is asked for is not in it.
            MachineError: the registry does not answer, or refuses.
        """
        if self.database_file is not None and not self.database_file.is_file():  # MLflow would create one
            what = f"there is no registry in this work folder ({self.database_file.parent})"
            fix = "Name the one it was registered in (--workdir), or the model's folder"
            raise RlvoError(what, where=model, fix=fix)
        try:
            yield self.client()
        except (MlflowException, SQLAlchemyError, ImportError) as error:
            if getattr(error, "error_code", None) in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise RlvoError(f"not in the registry ({one_line(error)})", where=model, fix=self._fix(model)) from None
            fix = "Check the server, or MLFLOW_TRACKING_URI"
            raise MachineError(f"the registry does not answer ({one_line(error)})", where=model, fix=fix) from None

    def _fix(self, model: str) -> str:
        """What to do if a model, as users name it, is not in the registry."""
        name = re.split("[@/]", model.removeprefix("models:/"))[0]
        try:
            names = [each.name for each in self.client().search_registered_models()]
        except MlflowException:
            names = [name]
        if name in names:
            return f"Its versions: {self.listing(name)}"
        if names:
            return f"Registered here: {', '.join(sorted(names))}"
        return f"None is; to build and register one: {command_line('ensemble', 'STUDY', workdir=self.workdir)}"

    def listing(self, model: str) -> str:
        """The command that lists a registered model's versions."""
        return command_line("models", "--model", model, workdir=self.workdir)

    @property
    def workdir(self) -> Path:
        """The work folder."""
        return self.artifacts.parent

    def register(self, model_uri: str, name: str, tags: Mapping[str, str]) -> str:
        """Register a logged model as a new version of `name`; its number. Use it within `registry`.

        MLflow looks the logged model up at its process-wide address, which is this one's meanwhile. Setting that sets
        environment variables too, which would take precedence over every work folder afterwards.
        """
        variables = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
        with _GLOBAL_ADDRESS:
            before = {name: os.environ.get(name) for name in variables}
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
            try:
                with contextlib.redirect_stderr(io.StringIO()):  # it announces what our caller reports
                    return str(mlflow.register_model(model_uri, name, tags=dict(tags)).version)
            finally:
                mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
                mlflow.set_registry_uri(None)  # type: ignore[arg-type]
                for variable, value in before.items():
                    os.environ.pop(variable, None)
                    if value is not None:
                        os.environ[variable] = value


def one_line(error: Exception) -> str:
    """The beginning of an error's message, on one line and without passwords."""
    return textwrap.shorten(hide_passwords(" ".join(str(error).split())), 160, placeholder=" …")
