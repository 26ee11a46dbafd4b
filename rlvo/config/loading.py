"""From a YAML file to a study; every mistake is reported with its dotted path and, if one is close, the right key."""

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from rlvo.config.base import did_you_mean
from rlvo.config.predictors import NAME, OWN, OwnPredictor
from rlvo.config.shipped import shipped_studies, study_file
from rlvo.config.space import AXIS_KINDS
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError

TAGS: dict[str, type[BaseModel]] = {**AXIS_KINDS, OWN: OwnPredictor}
"""What pydantic writes between a field and its model's fields into the path of a mistake."""


def load_study(path: Path) -> StudyConfig:
    """Read and check a study configuration.

    The file is read as YAML 1.2, so `1e-4` is a number. Relative paths (`cohort.table`, `atlas`,
    `folds.test_patients`, `model.pretrained.weights`) are resolved against the file's folder.

    Args:
        path: a YAML file, or the name of a study that comes with rlvo.

    Raises:
        RlvoError: the file is missing or is not YAML, or keys and values are invalid; all mistakes at once.
    """
    path = study_file(path)
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise RlvoError(f"the file is not valid YAML: {' '.join(str(error).split())}", where=path) from None
    except RecursionError:
        raise RlvoError("the file is not a study: it is nested too deeply", where=path) from None
    if not isinstance(content, dict):
        raise RlvoError("a study must map keys to values", where=path, fix=f"See {shipped_studies()['demo']}")
    study = parse_study(content, where=path)

    def beside(file: Path | None) -> Path | None:
        return None if file is None else (path.parent / file).resolve()

    cohort = study.cohort.model_copy(update={"table": beside(study.cohort.table)})
    folds = study.folds.model_copy(update={"test_patients": beside(study.folds.test_patients)})
    pretrained = study.model.pretrained.model_copy(update={"weights": beside(study.model.pretrained.weights)})
    model = study.model.model_copy(update={"pretrained": pretrained})
    return study.model_copy(update={"cohort": cohort, "folds": folds, "model": model, "atlas": beside(study.atlas)})


def named_study(study: str | Path | StudyConfig) -> tuple[str, StudyConfig | None]:
    """The name of a study, and its configuration unless only the name is given.

    Args:
        study: a YAML file, a configuration, or the name of a study in the work folder.
    """
    if isinstance(study, Path) or (isinstance(study, str) and study.endswith((".yaml", ".yml"))):
        study = load_study(Path(study))
    return (study, None) if isinstance(study, str) else (study.name, study)


def parse_study(content: dict[str, Any], *, where: object = None) -> StudyConfig:
    """Check a study given as a nested dictionary. Raises RlvoError that names every mistake."""
    try:
        return StudyConfig.model_validate(content)
    except ValidationError as error:
        raise RlvoError("; ".join(_explain(problem) for problem in error.errors()), where=where) from None


def _explain(problem: Any) -> str:
    location = [str(part) for part in problem["loc"] if part != "[key]"]
    path = ".".join(part for part in location if part not in (*TAGS, NAME))
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{path}'{did_you_mean(location[-1], _fields(location[:-1]))}"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(value := problem["input"], str | int | float | bool) and f"'{value}'" not in message:
        message += f" (got {value!r})"
    return f"{path}: {message}" if path else message


def _fields(location: list[str]) -> list[str]:
    """The names of the fields of the configuration model at `location`."""
    model: type[BaseModel] = StudyConfig
    for part in location:
        if part in TAGS:
            model = TAGS[part]
        elif part in model.model_fields:
            annotation = model.model_fields[part].annotation
            nested = (kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type))
            model = next((kind for kind in nested if issubclass(kind, BaseModel)), model)
    return list(model.model_fields)
