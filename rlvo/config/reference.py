"""What a study file may hold, from the configuration models alone: a JSON schema for editors, a page for people."""

import ast
import inspect
import itertools
import json
from collections.abc import Iterator
from typing import Any

from rlvo.config.base import Section
from rlvo.config.grid import PRESETS
from rlvo.config.study import StudyConfig

SCHEMA_FILE = "study.schema.json"
"""Its name, where studies lie that refer to it."""
SCHEMA_LINE = f"# yaml-language-server: $schema={SCHEMA_FILE}"
"""The first line of a study file, by which editors find the schema beside it."""
TITLE = "A study of rlvo"
HEAD = """\
# Configuration: every field of a study file

One YAML file is one study; `rlvo init TABLE -o study.yaml` writes one for a cohort, and `rlvo plan STUDY` shows what it
would run. Unknown keys are refused, and every field but `name` has a default. An editor that knows YAML schemas
completes and checks the fields: the first line of a study names the schema, which `rlvo schema` writes.

This page is written by `rlvo schema -o docs/configuration.md` from the models in `rlvo/config/`.
"""


def study_schema() -> dict[str, Any]:
    """The JSON schema of a study file."""
    schema = StudyConfig.model_json_schema()
    by_name = {**schema["$defs"], StudyConfig.__name__: schema}
    for model in _models(Section):
        if model.__name__ in by_name:
            _describe(model, by_name[model.__name__]["properties"])
    _unfold_descriptions(schema)
    grid = StudyConfig.model_fields["grid"].default
    schema["properties"]["grid"]["default"] = next(name for name, preset in PRESETS.items() if preset == grid)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema, "title": TITLE}


def schema_text() -> str:
    """The JSON schema as the file holds it."""
    return json.dumps(study_schema(), indent=1, ensure_ascii=False) + "\n"


def reference_page() -> str:
    """docs/configuration.md: every field with its values, default and meaning, section by section."""
    return "\n".join([HEAD, *_sections("", study_schema(), study_schema()["$defs"])])


def _models(base: type[Section]) -> Iterator[type[Section]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _describe(model: type[Section], fields: dict[str, Any]) -> None:
    """Describe a model's fields by the docstrings below them. Pydantic can, but at every start of every command."""
    [source] = ast.parse(inspect.getsource(model)).body
    assert isinstance(source, ast.ClassDef)
    for field, below in itertools.pairwise(source.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                fields[name] = dict(sorted({**fields[name], "description": inspect.cleandoc(text)}.items()))


def _unfold_descriptions(node: Any) -> None:
    """Descriptions are docstrings, whose lines are folded as code is."""
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _unfold_descriptions(value)
    if isinstance(node, dict) and isinstance(text := node.get("description"), str):
        node["description"] = "\n\n".join(" ".join(part.split()) for part in text.split("\n\n")).replace(
            "None:", "null:"
        )


def _sections(path: str, model: dict[str, Any], models: dict[str, Any]) -> list[str]:
    """A table of the model's own fields, then a section for each field that is a model itself."""
    rows, inner = [], []
    for name, field in model["properties"].items():
        place = f"{path}{name}"
        if (own := _model_of(field, models)) is not None:
            inner += ["", f"## `{place}`", "", field.get("description", own["description"]), ""]
            inner += _sections(f"{place}.", own, models)
        if own is None or "anyOf" in field or "items" in field:
            default = "**required**" if name in model.get("required", ()) else _literal(field.get("default"))
            meaning = field["description"].replace("|", "\\|")
            rows.append(f"| `{place}` | {_values(field, models)} | {default} | {meaning} |")
    table = ["| field | values | default | meaning |", "|---|---|---|---|", *rows] if rows else []
    return [*table, *inner]


def _model_of(field: dict[str, Any], models: dict[str, Any]) -> dict[str, Any] | None:
    """The model that a field is, or that it or its items may be."""
    for kind in (field, *field.get("anyOf", ()), *field.get("items", {}).get("oneOf", ())):
        if "$ref" in kind:
            model: dict[str, Any] = models[kind["$ref"].rpartition("/")[2]]
            return model
    return None


def _values(field: dict[str, Any], models: dict[str, Any]) -> str:
    """What a field may hold, in words."""
    if "$ref" in field:
        return ", ".join(f"`{name}`" for name in models[field["$ref"].rpartition("/")[2]]["properties"])
    for key in ("anyOf", "oneOf"):
        if key in field:
            return " or ".join(dict.fromkeys(_values(kind, models) for kind in field[key]))
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        known = field["enum"]
        return (
            ", ".join(f"`{json.dumps(v) if isinstance(v, int) else v}`" for v in known) if len(known) < 10 else "name"
        )
    match field["type"]:
        case "array" if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])}: {_values(field['prefixItems'][0], models)}"
        case "array":
            return f"list of {_values(field['items'], models)}"
        case "object":
            return f"field: {_values(field['additionalProperties'], models)}"
        case "null":
            return "`null`"
        case kind:
            words = {"string": "text", "boolean": "`true`, `false`"}.get(kind, kind)
            return "path" if field.get("format") == "path" else words + _bounds(field)


def _bounds(field: dict[str, Any]) -> str:
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    given = [f"{sign} {field[name]:g}" for name, sign in signs.items() if name in field]
    return f" {' and '.join(given)}" if given else ""


def _literal(value: Any) -> str:
    if isinstance(value, list) and len(value) > 6:
        return "see there"
    return "" if value is None or value in ([], {}) else f"`{value if isinstance(value, str) else json.dumps(value)}`"
