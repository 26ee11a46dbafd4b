"""One study: cohort, grid, model space, training, folds, search, resources, MLflow and ensemble."""

import itertools
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, cast

from pydantic import Field, ValidationError, field_validator, model_validator

from rlvo.config.arteries import why_no_box
from rlvo.config.base import Section, Seed
from rlvo.config.grid import PRESETS, GridField
from rlvo.config.model import AUXILIARY, Configuration, ModelConfig, auxiliary_targets
from rlvo.config.predictors import PAPER_PREDICTORS as PAPER_PREDICTORS  # scripts find it here
from rlvo.config.sections import (
    AblationConfig,
    CohortConfig,
    EnsembleConfig,
    FoldsConfig,
    MlflowConfig,
    ResourcesConfig,
    SearchConfig,
)
from rlvo.config.space import Scalar, Space, conditions
from rlvo.config.training import TrainingConfig

DEFAULTS: dict[str, tuple[object, object]] = {
    "cohort.scaling": ("min_max", "quantile"),
    "cohort.imputation": ("median", "ratio"),
    "model.efficientnet.batch_norm_momentum": (0.01, 0.1),
    "ensemble.calibrated_to": ("folds", "answers"),
    "ensemble.chance_members": ("count", "abstain"),
}
"""Settings that came later, and what they are if a study does not name them: if it was started before, and if it begins
now. They are settled when a study is opened."""


class StudyConfig(Section):
    """One YAML file is one study. Unknown keys are refused."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
    """The study's name: its folder in the work folder, and its experiment in MLflow."""
    seed: Seed = 0
    """Of weights, batches and augmentation; on CPU, runs with the same seed are identical."""
    cohort: CohortConfig = CohortConfig()
    """The patients' table."""
    grid: GridField = PRESETS["paper"]
    """The voxels in MNI space that volumes are resampled to: `paper` (246×295×258 of about 0.8 mm), `head` (the
    222×271×233 of them that hold the head: a quarter less to compute and to store), `whole` (40×48×40 of 4 mm), `focus`
    (32×24×20 of 4 mm around the circle of Willis), `arteries` (44×16×44 of 2 mm around the carotid ends, M1 and the
    first M2), or shape, spacing and origin."""
    atlas: Path | None = None
    """CT template in MNI space to register to; a relative path is relative to the configuration file. None: rlvo's."""
    model: ModelConfig = ModelConfig()
    """The network, where the space does not say otherwise."""
    training: TrainingConfig = TrainingConfig()
    """How a trial is trained, where the space does not say otherwise."""
    space: Space = Space()
    """Which fields of `model` and `training` vary."""
    folds: FoldsConfig = FoldsConfig()
    """Hold-out and folds."""
    search: SearchConfig = SearchConfig()
    """How configurations are chosen."""
    resources: ResourcesConfig = ResourcesConfig()
    """A trial's share of the machine or cluster."""
    mlflow: MlflowConfig = MlflowConfig()
    """Tracking and registration."""
    ensemble: EnsembleConfig = EnsembleConfig()
    """How trials become one model."""
    ablation: Annotated[AblationConfig, Field(exclude_if=AblationConfig().__eq__)] = AblationConfig()
    """What `rlvo ablate` leaves out."""

    @field_validator("name")
    @classmethod
    def _mlflow_has_another(cls, name: str) -> str:
        if name.casefold() == "default":
            raise ValueError("MLflow keeps this name for an experiment of its own")
        return name

    @model_validator(mode="after")
    def _space_is_valid(self) -> Self:
        sampled = {path: axis.extremes for path, axis in self.space.sample.items()}
        for path, values in {**self.space.enumerated, **sampled}.items():
            read = [self._read(path, value) for value in values]
            if not self.space.points and (twice := [v for n, v in enumerate(read) if v in read[:n]]):
                raise ValueError(f"space: {path}: {json.dumps(twice[0])} is given twice, in two ways")
        self._check_points()
        self._check_micro_batch()
        if "occlusion_side" not in self.cohort.names and {*self._values("model.side")} != {"as_is"}:
            raise ValueError("model.side: cohort.predictors lacks occlusion_side, which tells the affected side")
        self._check_crop()
        self._check_auxiliary()
        self._check_clinical_logits()
        self._check_pretrained()
        if self.search.sampler == "grid":
            self.space.grid()
        if "training.repeat" in {*self.space.enumerated, *self.space.sample}:
            self._check_repeats()
        if self.search.pruning == "halving":
            self._check_pruning()
        if self.search.defaults_first:
            self._check_defaults()
        return self

    def _check_points(self) -> None:
        enumerated = self.space.enumerated
        for number, point in enumerate(self.space.points, start=1):
            lacking = [path for path in enumerated if path not in point and self.is_active(path, point)]
            if lacking:
                raise ValueError(f"space.points: point {number} lacks {', '.join(lacking)}, which others name")

    def _check_micro_batch(self) -> None:
        parts, batches = (self._values(f"training.{name}") for name in ("micro_batch", "batch_size"))
        smallest, largest = min((part for part in parts if part is not None), default=1), max(batches)
        if smallest > largest:
            raise ValueError(f"training.micro_batch: {smallest} is larger than any batch (batch_size: {largest})")

    def _check_crop(self) -> None:
        crops = {*self._values("model.crop")}
        lacking = [name for name in ("occlusion_side", "occlusion_site") if name not in self.cohort.names]
        if "occlusion" in crops and lacking:
            raise ValueError(f"model.crop: cohort.predictors lacks {lacking[0]}, which tells where the occlusion is")
        if crops != {"whole"} and (why := why_no_box(self.grid)):
            raise ValueError(f"model.crop: {why}")

    def _check_auxiliary(self) -> None:
        if max(self._values("training.auxiliary")) > 0:
            for side, crop in itertools.product(self._values("model.side"), self._values("model.crop")):
                if not auxiliary_targets(self.cohort.names, side, crop):
                    turned = f" (with model.side: {side} the side is no target)" if side != "as_is" else ""
                    turned = " (with model.crop: occlusion neither side nor site is)" if crop == "occlusion" else turned
                    known = ", ".join(AUXILIARY)
                    raise ValueError(
                        f"training.auxiliary: cohort.predictors has no target{turned}; targets are {known}"
                    )

    def _check_clinical_logits(self) -> None:
        fusions, beside = self._values("model.fusion"), any(self._values("training.beside_table"))
        if not self.cohort.predictors and ("offset" in fusions or ("none" in fusions and beside)):
            what = "model.fusion: offset" if "offset" in fusions else "training.beside_table"
            raise ValueError(f"{what} fits a regression of the predictors first, and cohort.predictors has none")

    def _check_pretrained(self) -> None:
        axes = {*self.space.enumerated, *self.space.sample}
        if "model.pretrained.sha256" in axes:
            raise ValueError("model.pretrained.sha256: all networks of a study start from one file; compare studies")
        needing = {"model.pretrained.use", "training.freeze_epochs", "training.backbone_lr_mult"} & axes
        needing |= {"training.freeze_epochs"} if self.training.freeze_epochs else set()
        needing |= {"training.backbone_lr_mult"} if self.training.backbone_lr_mult != 1 else set()
        if needing and self.model.pretrained.sha256 is None:
            raise ValueError(f"{min(needing)}: set model.pretrained.weights and its sha256 as well")

    def _values(self, path: str) -> tuple[Any, ...]:
        """The values that stand for all at a dotted path: those of its axis, or else the default."""
        axis = self.space.sample.get(path)
        values = axis.extremes if axis else self.space.enumerated.get(path)
        return (self.default(path),) if values is None else tuple(self._read(path, value) for value in values)

    def _check_repeats(self) -> None:
        if self.space.sample and self.search.sampler != "grid":
            raise ValueError("training.repeat: repeats share what is drawn only if search.sampler is grid")
        if self.search.pruning != "none":
            raise ValueError("training.repeat: pruning would choose among repeats; set search.pruning to none")

    def _check_pruning(self) -> None:
        if "training.epochs" in {*self.space.enumerated, *self.space.sample}:
            raise ValueError("pruning compares configurations at the same epoch: training.epochs cannot be an axis")
        if self.search.first_folds > self.folds.folds:
            raise ValueError(f"search.first_folds: there are only {self.folds.folds} folds")
        if self.search.min_epochs > self.training.epochs:
            raise ValueError(f"search.min_epochs: a trial has only {self.training.epochs} epochs")

    def _check_defaults(self) -> None:
        for path, axis in self.space.sample.items():
            if not axis.holds(value := self.default(path)):
                raise ValueError(f"search.defaults_first: {path} is {value!r}, which is outside the space")

    def _read(self, path: str, value: object) -> Scalar:
        """A value of the space as its field takes it: `no`, which is text in YAML 1.2, as false."""
        try:
            read: Any = self.configuration({path: value})
        except ValidationError as error:
            raise ValueError(f"space: {path} cannot be {value!r}: {error.errors()[0]['msg']}") from None
        for part in path.split("."):
            read = getattr(read, part)
        return cast(Scalar, read if isinstance(value, str) else value)  # a number may need others

    def configuration(self, values: dict[str, Any]) -> Configuration:
        """The base model and training with the `values` at these dotted paths."""
        content = {"model": self.model.model_dump(), "training": self.training.model_dump()}
        for path, value in values.items():
            *parents, leaf = path.split(".")
            node: Any = content
            for parent in parents:
                node = node[parent]
            node[leaf] = value
        return Configuration.model_validate(content)

    def default(self, path: str) -> Scalar:
        """The value at a dotted path, as `model.dropout`."""
        node: Any = self
        for part in path.split("."):
            node = getattr(node, part)
        return cast(Scalar, node)

    def names(self, path: str) -> bool:
        """Whether the value at a dotted path was given, and not None."""
        *parents, leaf = path.split(".")
        node: Any = self
        for parent in parents:
            node = getattr(node, parent)
        return leaf in node.model_fields_set and getattr(node, leaf) is not None

    def with_setting(self, path: str, value: object) -> Self:
        """The study with another value at a dotted path."""
        return _with_setting(self, path.split("."), value)

    def is_active(self, path: str, values: Mapping[str, Scalar]) -> bool:
        """Whether the axis at `path` matters to a configuration with these `values`: `model.daft.bias` needs DAFT."""
        return all(values.get(field, self.default(field)) in needed for field, needed in conditions(path))

    def combinations(self) -> list[dict[str, Scalar]]:
        """The distinct points of the product of the enumerated axes, each with only the axes that matter to it."""
        return self._active(self.space.combinations())

    def grid_points(self) -> list[dict[str, Scalar]]:
        """The distinct points of the product of all axes, each with only the axes that matter to it."""
        return self._active(self.space.grid())

    def _active(self, points: Sequence[Mapping[str, Scalar]]) -> list[dict[str, Scalar]]:
        active = [{path: value for path, value in point.items() if self.is_active(path, point)} for point in points]
        return list({tuple(point.items()): point for point in active}.values())

    @cached_property
    def configurations(self) -> int:
        """How many configurations the study trains; a grid has no more than its points. Counted once."""
        wanted = self.search.configurations
        if self.search.sampler == "grid":
            points = len(self.grid_points())
            return min(wanted or points, points)
        return wanted or len(self.combinations())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("configurations", None)  # the copy's space may differ
        return copied


Settings = TypeVar("Settings", bound=Section)


def _with_setting(settings: Settings, path: Sequence[str], value: object) -> Settings:
    name, *inner = path
    return settings.model_copy(update={name: _with_setting(getattr(settings, name), inner, value) if inner else value})
