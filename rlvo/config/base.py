"""What all configuration models share: frozen, unknown keys refused, one stable hash."""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, SerializationInfo, ValidationInfo, field_validator

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What NumPy, scikit-learn, torch and Optuna all take."""


MAY_BE_SWITCHES = (bool, list, tuple)
"""Types of which a value may be true or false, or hold that."""


class Frozen(BaseModel):
    """An immutable configuration value that refuses unknown keys and validates its defaults too.

    The docstring below a field is its description: in the JSON schema, and in docs/configuration.md (`reference`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Section(Frozen):
    """What people write in a study file: numbers are finite, and true is none."""

    model_config = ConfigDict(allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_is_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """To Python, and so to pydantic, True is 1."""
        if not isinstance(value, MAY_BE_SWITCHES):  # thousands of records hold a configuration each
            return value
        within = value if isinstance(value, list | tuple) else (value,)
        field = cls.model_fields[info.field_name or ""]
        if any(isinstance(each, bool) for each in within) and not _mentions_bool(field.annotation):
            raise ValueError("a number is needed here, not true or false")
        return value


def _mentions_bool(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_mentions_bool, get_args(annotation)))


def content_hash(value: object) -> str:
    """SHA-256 (hex) of a JSON-serialisable value or pydantic model, independent of key order and white space."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def without(before: Mapping[str, Any], content: dict[str, Any], info: SerializationInfo) -> dict[str, Any]:
    """`content`, in JSON without the options that mean what files written before they existed mean.

    So files, keys and hashes stay what they were.
    """
    if info.mode != "json":
        return content
    return {name: value for name, value in content.items() if value != before.get(name, ...)}


def by_path(settings: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Every value of nested settings by its dotted path."""
    values: dict[str, object] = {}
    for key, value in settings.items():
        values |= by_path(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`; did you mean '…'?` with the closest known word; empty if none is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
