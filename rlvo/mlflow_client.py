"""The one connection to MLflow: quiet, bounded in time, its errors in one line."""

import contextlib
import io
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
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
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from rlvo.config.commands import command_line
from rlvo.config.workdir import sqlite_address
from rlvo.errors import MachineError, RlvoError, encode_password, hide_passwords
from rlvo.moved_folder import claim_artifacts, sqlite_file

LOG_LEVELS = {"mlflow": logging.WARNING, "mlflow.store.db": logging.CRITICAL, "urllib3": logging.ERROR}
"""MLflow announces every table it creates and prints tracebacks of errors it also raises; urllib3 logs every retry."""
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
        return sqlite_file(self.uri)

    def client(self) -> MlflowClient:
        """A client that prints nothing. Creates the database if there is none.

        The database of a work folder that was moved or copied is made to name the artifacts beside it first.
        """
        for name, level in LOG_LEVELS.items():
            logging.getLogger(name).setLevel(level)
        if re.match(r"(postgresql|mysql|mssql)\b", self.uri):  # one that refuses is tried for 100 s by MLflow
            sqlalchemy.create_engine(self.uri).connect().close()
        if (file := self.database_file) is not None and not file.exists():
            _create_database(file)
        client = MlflowClient(self.uri, self.uri)
        if file is not None and file.absolute().parent == self.workdir.absolute():
            claim_artifacts(self.uri, self.artifacts.absolute())
        return client

    def open_experiment(self, name: str) -> tuple[MlflowClient, str]:
        """A client and the id of an experiment, which is created if there is none.

        Raises:
            MachineError: MLflow does not answer, or refuses, or the experiment was deleted there.
        """
        location = None if self.is_server else self.artifacts.absolute().as_uri()
        try:
            client = self.client()
            found = self._find(client, name)
            return client, found or client.create_experiment(name, location)
        except (MlflowException, SQLAlchemyError, ImportError) as error:
            fix = "Start the server, or unset MLFLOW_TRACKING_URI to use the work folder's mlflow.db"
            if self.database_file is not None:
                fix = "Check that the folder can be written and the disk is not full"
            raise MachineError(f"MLflow does not answer ({one_line(error)})", where=self.uri, fix=fix) from None

    def _find(self, client: MlflowClient, name: str) -> str | None:
        """The id of an experiment; None if there is none. Raises MachineError if it was deleted."""
        found = client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == LifecycleStage.DELETED:
            fix = f"Restore it: {self._restoring(found.experiment_id)}"
            raise MachineError("its experiment was deleted in MLflow", where=name, fix=fix)
        return found.experiment_id if found is not None else None

    def _restoring(self, experiment: str) -> str:
        """The command that restores a deleted experiment, given by its id."""
        command = f"{shlex.quote(sys.executable)} -m mlflow experiments restore --experiment-id {experiment}"
        is_set = os.environ.get("MLFLOW_TRACKING_URI") == self.uri
        return command if is_set else f"MLFLOW_TRACKING_URI={shlex.quote(self.uri)} {command}"

    def trouble(self, experiment: str, seconds: float = 10) -> str | None:
        """Why MLflow takes no runs of an experiment, in one line; None if it does, or there is no database file yet.

        Args:
            seconds: how long to wait at most.
        """
        if self.database_file is not None and not self.database_file.is_file():
            return None
        found: list[str | None] = [f"MLflow does not answer (no answer within {seconds:g} s)"]

        def ask() -> None:
            try:
                self._find(self.client(), experiment)
                found[0] = None
            except (MlflowException, SQLAlchemyError, ImportError) as error:
                found[0] = f"MLflow does not answer ({one_line(error)})"
            except MachineError as error:
                found[0] = str(error)

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


def _create_database(file: Path) -> None:
    """Make a database elsewhere, then move it into place: there it is whole or absent.

    MLflow makes one in dozens of steps, and a process that meets one half made takes them too: both fail. If several
    make one at once, the first that is ready stays.

    Raises MlflowException if there is no room, or no writing to the folder.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder, file.name)
            MlflowClient(sqlite_address(made)).search_experiments(max_results=1)
            with (
                tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as beside,
                contextlib.suppress(FileExistsError),
            ):
                os.link(shutil.copy(made, beside), file)
    except OSError as error:
        raise MlflowException(f"{file.name} cannot be made: {error.strerror or error}") from None


def one_line(error: Exception) -> str:
    """The beginning of an error's message, on one line and without passwords."""
    return textwrap.shorten(hide_passwords(" ".join(str(error).split())), 160, placeholder=" …")
