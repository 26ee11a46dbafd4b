"""Weights that others trained, as a study names them."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from rlvo.config.base import Section


class PretrainedOptions(Section):
    """Weights that others trained, from which the image network starts (docs/pretrained.md)."""

    weights: Annotated[Path | None, Field(exclude=True, repr=False)] = None
    """The file, as `rlvo convert-weights` writes it (safetensors); a relative path is relative to the configuration
    file. The work folder keeps a copy, and the path is written nowhere. None: the copy is there."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """The file's SHA-256, which `rlvo convert-weights` prints. It is a part of what a configuration is. None: random
    weights."""
    use: bool = True
    """Whether networks start from them; enumerate [true, false] to compare with random weights."""

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.weights is not None and self.sha256 is None:
            raise ValueError("weights need their sha256, as sha256sum prints it")
        return self


RANDOM = PretrainedOptions(use=False)
"""The image network starts from random weights."""
