"""The model folder: everything an ensemble needs to score a new patient, without the study it came from.

```
ensemble.json          specs, encoders, linear models, grid, summary of the training patients (`ModelDescription`)
members.safetensors    every network's weights; tensors are named `<member>/<tensor>`
atlas.npz              only if volumes were registered to the user's own template
```
"""

import operator
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field, ValidationError
from safetensors.torch import load_file, save_file

from rlvo.about import NOTICE, __version__
from rlvo.cohort.encoding import TabularEncoder
from rlvo.config.base import Frozen, content_hash
from rlvo.config.predictors import OwnPredictor
from rlvo.ensemble.spec import EnsembleSpec, Member, MemberSpec
from rlvo.errors import RlvoError
from rlvo.files import atomic_write
from rlvo.imaging.alignment.template import load_atlas, write_template
from rlvo.imaging.prepare import preparation_key
from rlvo.imaging.target import Target
from rlvo.inference.training_cohort import CohortSummary
from rlvo.training.linear_model import LinearImage
from rlvo.training.table_model import TableModel

DESCRIPTION = "ensemble.json"
WEIGHTS = "members.safetensors"
ATLAS = "atlas.npz"


class Variant(Frozen):
    """An ensemble that answers for patients who have the inputs it needs."""

    name: str
    """For users, e.g. "without CTA"."""
    spec: EnsembleSpec
    encoders: dict[int, TabularEncoder]
    """By fold, fitted on the fold's training patients."""
    table_models: Annotated[dict[int, TableModel], Field(exclude_if=operator.not_)] = Field(default_factory=dict)
    """By fold, if the table's model is a member; they take what the fold's encoder gives."""
    image_models: Annotated[dict[int, LinearImage], Field(exclude_if=operator.not_)] = Field(default_factory=dict)
    """By fold, if the linear model of the volumes is a member."""

    @property
    def predictors(self) -> tuple[str, ...]:
        return next(iter(self.encoders.values())).predictors

    @property
    def own(self) -> tuple[OwnPredictor, ...]:
        """The declarations of predictors that rlvo does not know."""
        return next(iter(self.encoders.values())).own

    @property
    def channels(self) -> tuple[str, ...]:
        """The volumes its members look at."""
        networks, linear = self.spec.folds[0].networks, self.image_models.values()
        needed = [*(each.channels for each in networks), *(each.channels for each in linear)]
        return tuple(dict.fromkeys(name for channels in needed for name in channels))

    @property
    def reads_table(self) -> bool:
        """Whether any of its members looks at the clinical table."""
        return self.spec.reads_table

    def imputed(self, row: pd.DataFrame) -> list[str]:
        """The predictors imputed for the patient of a typed row, of those that any member looks at."""
        imputed = next(iter(self.encoders.values())).imputed(row)
        if self.reads_table:
            return imputed
        return [name for name in imputed if name in self.looked_up]

    @property
    def looked_up(self) -> tuple[str, ...]:
        """The predictors that tell its networks where to look."""
        needed = [name for configuration in self.spec.configurations for name in configuration.model.looked_up]
        return tuple(dict.fromkeys(needed))


class ModelDescription(Frozen):
    """`ensemble.json`. Names no patient and no path."""

    variants: tuple[Variant, ...]
    """The ensemble itself, then the ones that answer if some of its inputs are missing, best first."""
    target: Target
    preparation: str
    """Key of the preparation (settings, atlas, code) of the volumes that the members were trained on."""
    cohort: CohortSummary | None = None
    """The ensemble's development patients."""
    provenance: dict[str, str] = Field(default_factory=dict)
    """Where the model comes from: hashes, versions, the commit."""
    seen_scans: Annotated[tuple[str, ...], Field(exclude_if=operator.not_)] = ()
    """What the scans are recognised by that its networks were pretrained on (`VolumeStore.scans`), as far as known."""
    notice: str = NOTICE
    rlvo_version: str = __version__

    @property
    def spec(self) -> EnsembleSpec:
        return self.variants[0].spec

    @property
    def predictors(self) -> tuple[str, ...]:
        return self.variants[0].predictors

    @property
    def own(self) -> tuple[OwnPredictor, ...]:
        """The declarations of predictors that rlvo does not know; other variants have no more."""
        return self.variants[0].own

    def networks(self) -> dict[str, tuple[Variant, MemberSpec]]:
        """Every distinct network by its name within the model, with the first variant it serves."""
        networks: dict[str, tuple[Variant, MemberSpec]] = {}
        for variant in self.variants:
            for member in variant.spec.networks:
                networks.setdefault(self.member_name(variant, member), (variant, member))
        return networks

    def member_names(self) -> list[str]:
        """The names of all members within the model."""
        every = [self.member_name(variant, member) for variant in self.variants for member in variant.spec.members]
        return list(dict.fromkeys(every))

    def member_name(self, variant: Variant, member: Member) -> str:
        """The member's key, with a suffix if it comes from another study, where the same key is another member."""
        origin, own = ((spec.split_hash, spec.data_hash) for spec in (variant.spec, self.spec))
        return member.key if origin == own else f"{member.key}-{content_hash(origin)[:8]}"


def describe(
    spec: EnsembleSpec,
    encoders: dict[int, TabularEncoder],
    target: Target,
    *,
    table_models: dict[int, TableModel] | None = None,
    image_models: dict[int, LinearImage] | None = None,
    reduced: Sequence[Variant] = (),
    fallbacks: Mapping[str, EnsembleSpec] | None = None,
    cohort: CohortSummary | None = None,
    provenance: Mapping[str, str] | None = None,
    seen_scans: Iterable[str] = (),
) -> ModelDescription:
    """The description of the ensemble `spec`, for volumes that this code prepares to `target`.

    Args:
        encoders: of the study's predictors, by fold.
        table_models: the table's models by fold, if the ensemble has them as members.
        image_models: the linear models of the volumes by fold, likewise.
        reduced: ensembles of fewer predictors (the paper's Model B), which answer if CT perfusion is missing.
        fallbacks: ensembles of the same study by name, which answer if a volume is missing.
        seen_scans: what the scans are recognised by that networks of any of them were pretrained on.
    """
    specs, models = {"all inputs": spec, **(fallbacks or {})}, table_models or {}
    linear = {name: (image_models or {}) if each.linear_image else {} for name, each in specs.items()}
    champion, *others = (
        Variant(name=name, spec=each, encoders=encoders, table_models=models, image_models=linear[name])
        for name, each in specs.items()
    )
    return ModelDescription(
        variants=(champion, *reduced, *others),
        target=target,
        preparation=preparation_key(target),
        cohort=cohort,
        provenance=dict(provenance or {}),
        seen_scans=tuple(sorted(seen_scans)),
    )


def write_model_folder(
    folder: Path, description: ModelDescription, weights: Callable[[Variant, MemberSpec], Path]
) -> None:
    """Write (or replace) a model folder; `weights` gives the safetensors file of a member of the variant's study."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    tensors = {
        f"{name}/{tensor}": values
        for name, (variant, member) in description.networks().items()
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
    """Read the description in a model folder.

    Raises:
        RlvoError: if it is missing or damaged, or this code prepares volumes differently than for the model's training.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        fix = "Name a registered model or a model folder"
        raise RlvoError(f"there is no model here ({DESCRIPTION} is missing)", where=folder, fix=fix)
    try:
        description = ModelDescription.model_validate_json(path.read_bytes())
    except ValidationError as error:
        what = f"the file is damaged: {error.errors()[0]['msg']}"
        raise RlvoError(what, where=path, fix="Register the ensemble again") from None
    if description.target.atlas is not None:
        description = _with_atlas(description, folder / ATLAS)
    if preparation_key(description.target) != description.preparation:
        what = f"trained on volumes prepared by rlvo {description.rlvo_version}; this rlvo prepares them differently"
        raise RlvoError(what, where=path, fix="Use that version, or train again")
    return description


def _with_atlas(description: ModelDescription, path: Path) -> ModelDescription:
    target = description.target.model_copy(update={"atlas": path})
    return description.model_copy(update={"target": target})
