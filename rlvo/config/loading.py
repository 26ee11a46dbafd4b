"""From a YAML file to a study; every mistake with its dotted path and, where one is close, the right key."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from rlvo.config.space import AXIS_KINDS
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError


def load_study(path: Path) -> StudyConfig:
    """Read and check a study configuration.

    YAML 1.2, so `1e-4` is a number. Relative paths (`cohort.table`, `atlas`, `folds.test_patients`) become relative to
    the file's folder.

    Raises:
        RlvoError: file missing, not YAML, or keys and values that do not fit; all of them, one line each.
    """
    if not path.is_file():
        raise RlvoError("no such configuration file", where=path, fix="Name a YAML file, e.g. tune_configs/demo.yaml")
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise RlvoError(f"not readable as YAML: {' '.join(str(error).split())}", where=path) from None
    if not isinstance(content, dict):
        raise RlvoError("a study is a mapping of keys to values", where=path, fix="See tune_configs/demo.yaml")
    study = parse_study(content, where=path)

    def beside(file: Path | None) -> Path | None:
        return None if file is None else (path.parent / file).resolve()

    cohort = study.cohort.model_copy(update={"table": beside(study.cohort.table)})
    folds = study.folds.model_copy(update={"test_patients": beside(study.folds.test_patients)})
    return study.model_copy(update={"cohort": cohort, "folds": folds, "atlas": beside(study.atlas)})


def parse_study(content: dict[str, Any], *, where: object = None) -> StudyConfig:
    """Check a study given as a nested dictionary. Raises RlvoError with every mistake."""
    try:
        return StudyConfig.model_validate(content)
    except ValidationError as error:
        raise RlvoError("; ".join(_explain(problem) for problem in error.errors()), where=where) from None


def _explain(problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(part for part in location if part not in AXIS_KINDS)
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(location[-1], _fields(location[:-1]), n=1)
        return f"unknown key '{path}'" + (f"; did you mean '{close[0]}'?" if close else "")
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem["input"], str | int | float | bool):
        message += f" (got {problem['input']!r})"
    return f"{path}: {message}" if path else message


def _fields(location: list[str]) -> list[str]:
    """Names of the fields of the configuration model that lies at `location`."""
    model: type[BaseModel] = StudyConfig
    for part in location:
        if part in AXIS_KINDS:
            model = AXIS_KINDS[part]
        elif part in model.model_fields:
            annotation = model.model_fields[part].annotation
            nested = (kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
            model = next((kind for kind in nested if issubclass(kind, BaseModel)), model)
    return list(model.model_fields)
