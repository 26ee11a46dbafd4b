"""What the commands share: options, and how a place that cannot be written is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import RlvoError

if TYPE_CHECKING:
    from rlvo.mlflow_client import Tracking

WorkdirOption = Annotated[
    Path,
    typer.Option("--workdir", envvar="RLVO_WORKDIR", help="Work folder: MLflow, store, studies.", show_default=DEFAULT),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable result on standard output.")]
StudyArgument = Annotated[str, typer.Argument(help="A study's name in the work folder, or its YAML file.")]
ModelArgument = Annotated[str, typer.Argument(help="Registered model (rlvo-ensemble@champion) or its folder.")]


def look_into(workdir: Path) -> Workdir:
    """The work folder, which is not made if it is missing."""
    return Workdir(workdir.expanduser().resolve())


def registry_of(workdir: Path) -> Tracking:
    """Where models are registered: as the environment says, or else in the work folder."""
    from rlvo.mlflow_client import Tracking

    work = look_into(workdir)
    return Tracking(work.tracking_uri(), work.artifacts)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise RlvoError, naming `path`, if it cannot be written."""
    try:
        yield
    except OSError as error:
        raise RlvoError(f"cannot be written ({error.strerror})", where=path, fix="Name another place") from None
