"""The model folder: everything an ensemble needs to answer for a new patient, without the study it came from.

```
ensemble.json          specs, encoders, grid, the training patients in figures (`ModelDescription`)
members.safetensors    every member's weights, its tensors named `<member>/<tensor>`
atlas.npz              where volumes were registered to a template of the user's
```
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from pydantic import Field, ValidationError
from safetensors.torch import load_file, save_file

from rlvo import NOTICE, __version__
from rlvo.cohort.encoding import TabularEncoder
from rlvo.config.base import Frozen, content_hash
from rlvo.ensemble.member import MemberSpec
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.errors import RlvoError
from rlvo.files import atomic_write
from rlvo.imaging.atlas import load_atlas, write_template
from rlvo.imaging.prepare import preparation_key
from rlvo.imaging.target import Target
from rlvo.registry.cohort_summary import CohortSummary

DESCRIPTION = "ensemble.json"
WEIGHTS = "members.safetensors"
ATLAS = "atlas.npz"
CHAMPION_VARIANT = "all inputs"


class Variant(Frozen):
    """An ensemble that answers where its inputs are there."""

    name: str
    """In words, e.g. "without CTA"."""
    spec: EnsembleSpec
    encoders: dict[int, TabularEncoder]
    """By fold: fitted on the fold's training patients."""

    @property
    def predictors(self) -> tuple[str, ...]:
        return next(iter(self.encoders.values())).predictors

    @property
    def channels(self) -> tuple[str, ...]:
        """The volumes that its members look at."""
        return tuple(dict.fromkeys(name for c in self.spec.configurations for name in c.model.channels))

    @property
    def reads_table(self) -> bool:
        """Whether any of its members looks at the clinical table."""
        return any(configuration.model.fusion != "none" for configuration in self.spec.configurations)

    def imputed(self, table: pd.DataFrame) -> list[list[str]]:
        """For each patient of a typed table the missing predictors that are filled in; none where none is read."""
        imputed = next(iter(self.encoders.values())).imputed(table)
        return imputed if self.reads_table else [[] for _ in imputed]


class ModelDescription(Frozen):
    """`ensemble.json`. Names no patient and no path."""

    variants: tuple[Variant, ...]
    """The ensemble itself; then what answers where some of its inputs are missing, the best first."""
    target: Target
    preparation: str
    """Key of the preparation (settings, atlas, code) the members were trained on."""
    cohort: CohortSummary | None = None
    """The development patients of the ensemble."""
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

    def members(self) -> dict[str, tuple[Variant, MemberSpec]]:
        """Every distinct member by its name within the model, and the first variant that it serves."""
        members: dict[str, tuple[Variant, MemberSpec]] = {}
        for variant in self.variants:
            for member in variant.spec.members:
                members.setdefault(self.member_name(variant, member), (variant, member))
        return members

    def member_name(self, variant: Variant, member: MemberSpec) -> str:
        """Its key; with a mark where it comes from another study, which may have trained the same configuration."""
        origin, own = ((spec.split_hash, spec.data_hash) for spec in (variant.spec, self.spec))
        return member.key if origin == own else f"{member.key}-{content_hash(origin)[:8]}"


Weights = Callable[[Variant, MemberSpec], Path]
"""Gives the safetensors file of a member of a variant's study."""


def describe(
    spec: EnsembleSpec,
    encoders: dict[int, TabularEncoder],
    target: Target,
    *,
    reduced: Sequence[Variant] = (),
    fallbacks: Mapping[str, EnsembleSpec] | None = None,
    cohort: CohortSummary | None = None,
    provenance: Mapping[str, str] | None = None,
) -> ModelDescription:
    """The description of `spec` for volumes prepared by this code to `target`.

    Args:
        encoders: by fold, of the study's predictors.
        reduced: ensembles of fewer predictors (the paper's Model B) that answer where CT perfusion is missing.
        fallbacks: ensembles of the same study that answer where a volume is missing, by name.
    """
    own = {CHAMPION_VARIANT: spec}, fallbacks or {}
    champion, others = ([Variant(name=n, spec=s, encoders=encoders) for n, s in named.items()] for named in own)
    return ModelDescription(
        variants=(*champion, *reduced, *others),
        target=target,
        preparation=preparation_key(target),
        cohort=cohort,
        provenance=dict(provenance or {}),
    )


def write_model_folder(folder: Path, description: ModelDescription, weights: Weights) -> None:
    """Write (or replace) a model folder; `weights` gives each distinct member's."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    tensors = {
        f"{name}/{tensor}": values
        for name, (variant, member) in description.members().items()
        for tensor, values in load_file(weights(variant, member)).items()
    }
    save_file(tensors, fresh / WEIGHTS)
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
