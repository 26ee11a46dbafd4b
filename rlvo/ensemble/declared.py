"""The ensembles a study declares, frozen in a file before its hold-out is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rlvo.ensemble.spec import EnsembleSpec
from rlvo.errors import RlvoError
from rlvo.files import atomic_write

DECLARED = "ensemble/declared.json"
_BY_NAME = TypeAdapter(dict[str, EnsembleSpec])


def write_declared(study_folder: Path, specs: Mapping[str, EnsembleSpec]) -> None:
    """Write the study's ensembles by name, atomically."""
    atomic_write(study_folder / DECLARED, _BY_NAME.dump_json(dict(specs), indent=1).decode())


def read_declared(study_folder: Path) -> dict[str, EnsembleSpec]:
    """The study's ensembles by name. Raises RlvoError where none were built, or the file is damaged."""
    path = study_folder / DECLARED
    if not path.is_file():
        raise RlvoError("no ensemble was built for this study", where=study_folder, fix="Run 'rlvo ensemble' first")
    try:
        return _BY_NAME.validate_json(path.read_bytes())
    except ValidationError:
        raise RlvoError(
            "damaged, or written by another version of rlvo", where=path, fix="Run 'rlvo ensemble' again"
        ) from None
