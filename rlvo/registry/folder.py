"""The model folder: everything an ensemble needs to answer for a new patient, without the study it came from.

```
ensemble.json                    spec, encoders, grid, predictors (`ModelDescription`)
members/<key>-f<fold>.safetensors
atlas.npz                        where volumes were registered to a template of the user's
```
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import Field, ValidationError

from rlvo import NOTICE, __version__
from rlvo.cohort.encoding import TabularEncoder
from rlvo.config.base import Frozen
from rlvo.ensemble.member import MemberSpec
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.errors import RlvoError
from rlvo.files import atomic_write
from rlvo.imaging.atlas import load_atlas, write_template
from rlvo.imaging.prepare import preparation_key
from rlvo.imaging.target import Target

DESCRIPTION = "ensemble.json"
ATLAS = "atlas.npz"
MEMBERS = "members"


class Variant(Frozen):
    """An ensemble that answers where its inputs are there."""

    name: str
    spec: EnsembleSpec
    encoders: dict[int, TabularEncoder]
    """By fold: fitted on the fold's training patients."""

    @property
    def predictors(self) -> tuple[str, ...]:
        return next(iter(self.encoders.values())).predictors


class ModelDescription(Frozen):
    """`ensemble.json`. Names no patient and no path."""

    variants: tuple[Variant, ...]
    """The ensemble itself; then what answers where some of its inputs are missing, the best first."""
    target: Target
    preparation: str
    """Key of the preparation (settings, atlas, code) the members were trained on."""
    provenance: dict[str, str] = Field(default_factory=dict)
    """Where it comes from: hashes, versions, the commit."""
    notice: str = NOTICE
    rlvo_version: str = __version__

    @property
    def spec(self) -> EnsembleSpec:
        return self.variants[0].spec

    @property
    def encoders(self) -> dict[int, TabularEncoder]:
        return self.variants[0].encoders

    @property
    def predictors(self) -> tuple[str, ...]:
        return self.variants[0].predictors


def describe(spec: EnsembleSpec, encoders: dict[int, TabularEncoder], target: Target) -> ModelDescription:
    """The description of `spec` for volumes prepared by this code to `target`."""
    variant = Variant(name="ensemble", spec=spec, encoders=encoders)
    return ModelDescription(variants=(variant,), target=target, preparation=preparation_key(target))


def write_model_folder(folder: Path, description: ModelDescription, weights: Callable[[MemberSpec], Path]) -> None:
    """Write (or replace) a model folder; `weights` gives each member's safetensors file."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    (fresh / MEMBERS).mkdir()
    for member in description.spec.members:
        shutil.copyfile(weights(member), member_weights(fresh, member))
    if (template := description.target.atlas) is not None:
        write_template(load_atlas(template), fresh / ATLAS)
        description = _with_atlas(description, Path(ATLAS))
    atomic_write(fresh / DESCRIPTION, description.model_dump_json(indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def read_description(folder: Path) -> ModelDescription:
    """Read a model folder's description.

    Raises:
        RlvoError: no model lies there, it cannot be read, or this code prepares volumes differently from its training.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise RlvoError(
            f"no model lies here ({DESCRIPTION} is missing)",
            where=folder,
            fix="Name a registered model or a model folder",
        )
    try:
        description = ModelDescription.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RlvoError(f"damaged: {error.errors()[0]['msg']}", where=path, fix="Register the ensemble again") from None
    if description.target.atlas is not None:
        description = _with_atlas(description, folder / ATLAS)
    if preparation_key(description.target) != description.preparation:
        raise RlvoError(
            f"trained on volumes that rlvo {description.rlvo_version} prepared, and this rlvo prepares them otherwise",
            where=path,
            fix="Use that version, or train again",
        )
    return description


def _with_atlas(description: ModelDescription, path: Path) -> ModelDescription:
    target = description.target.model_copy(update={"atlas": path})
    return description.model_copy(update={"target": target})


def member_weights(folder: Path, member: MemberSpec) -> Path:
    """A member's weights in a model folder."""
    return folder / MEMBERS / f"{member.key}.safetensors"
