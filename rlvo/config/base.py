"""What all configuration models share: frozen, unknown keys refused, one stable hash."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A configuration value: immutable, refuses unknown keys, checks its defaults too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def content_hash(value: object) -> str:
    """SHA-256 (hex) of a JSON-serialisable value or pydantic model, independent of key order and white space."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
