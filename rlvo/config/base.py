"""What all configuration models share: frozen, unknown keys refused, one stable hash."""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable configuration value that refuses unknown keys and validates its defaults too.

    The docstring below a field is its description: in the JSON schema, and in docs/configuration.md.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)


def content_hash(value: object) -> str:
    """SHA-256 (hex) of a JSON-serialisable value or pydantic model, independent of key order and white space."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


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
