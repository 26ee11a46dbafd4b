"""One study: cohort, grid, model space, training, folds, search, resources, MLflow and ensemble."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from rlvo.config.base import Frozen
from rlvo.config.grid import PRESETS, GridField
from rlvo.config.model import Configuration, ModelConfig, TrainingConfig
from rlvo.config.space import Scalar, Space, conditions, dotted_paths, with_values

PAPER_PREDICTORS = (
    "age", "sex", "hypertension", "dyslipidemia", "diabetes", "smoking", "atrial_fibrillation", "nihss", "ivt",
    "unwitnessed_onset", "occlusion_side", "occlusion_site", "cbf_lt30_ml", "tmax_gt4_ml", "tmax_gt6_ml",
    "tmax_gt10_ml", "hir", "tmax4_tmax6_ratio",
)  # fmt: skip
"""The 18 predictors of section 2.2.2; `hir` and `tmax4_tmax6_ratio` are derived."""


class CohortConfig(Frozen):
    """The table, and which of its columns (or derived variables) are predictors."""

    table: Path | None = None
    """Cohort table; a relative path is relative to the configuration file. `--cohort` wins."""
    predictors: tuple[str, ...] = PAPER_PREDICTORS


class FoldsConfig(Frozen):
    """The hold-out and the folds in the rest; as in the paper unless set otherwise (sections 2.3–2.4)."""

    holdout: Literal["random", "temporal", "center", "list"] = "random"
    """Stratified at random; the last admitted; all patients of `test_centers`; the patients of `test_patients`."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the patients held out at random or by date."""
    test_centers: tuple[str, ...] = ()
    test_patients: Path | None = None
    """Text file with a patient id a line."""
    scheme: Literal["stratified", "leave_one_center_out"] = "stratified"
    """How the other patients are put into folds; leaving one centre out, `folds` must be the number of centres."""
    folds: Annotated[int, Field(ge=2)] = 4
    seed: int = 0

    @model_validator(mode="after")
    def _holdout_is_named(self) -> FoldsConfig:
        if (self.holdout == "center") != bool(self.test_centers):
            raise ValueError("test_centers goes with holdout: center, and only with it")
        if (self.holdout == "list") != (self.test_patients is not None):
            raise ValueError("test_patients goes with holdout: list, and only with it")
        return self


class SearchConfig(Frozen):
    """How configurations are chosen and how many trials run at once."""

    sampler: Literal["tpe", "random", "grid"] = "grid"
    configurations: PositiveInt | None = None
    """How many; None: every combination of the grid, or of the enumerated axes."""
    concurrent_trials: PositiveInt | None = None
    """None: as many as the cluster's resources allow."""
    max_failures: Annotated[int, Field(ge=0)] = 1
    """How often a trial whose process died is started again."""
    seed: int = 0
    storage: Annotated[str | None, Field(exclude=True, repr=False)] = None
    """Database (SQLAlchemy address) for Optuna's state; None: a journal in the study folder. The environment's
    `RLVO_OPTUNA_STORAGE`, where set, wins. It may hold a password, so it is written nowhere."""
    defaults_first: bool = False
    """Whether the first configuration is that of `model` and `training`, with nothing drawn."""
    pruning: Literal["none", "halving"] = "none"
    """halving: configurations are trained step by step, on the first folds first; the best of each step go on."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """One configuration in so many goes on, and each step trains so many times as long."""
    min_epochs: PositiveInt = 10
    """Epochs before the first comparison."""
    first_folds: PositiveInt = 2
    """Folds that comparisons are made on; those that are best after all epochs get the other folds."""
    bracket: PositiveInt | None = None
    """How many configurations, in the order they are proposed, are compared with one another; None: all."""
    compare_within: tuple[str, ...] = ("model.modality",)
    """Fields in which configurations that are compared agree: an ensemble needs a model of each modality."""


class ResourcesConfig(Frozen):
    """A trial's share of the machine."""

    cpus: PositiveInt = 1
    gpus: NonNegativeFloat = 0.0


class MlflowConfig(Frozen):
    """Where runs go. `MLFLOW_TRACKING_URI`, where set, wins; None: `mlflow.db` in the work folder."""

    tracking_uri: str | None = None
    registered_model: str = "rlvo-ensemble"
    keep_checkpoints: PositiveInt | None = None
    """How many of a study's best checkpoints MLflow keeps; None: all."""
    checkpoint_gb: PositiveFloat | None = None
    """Disk that they may take there, 1e9 bytes; None: no limit."""


class EnsembleConfig(Frozen):
    """How trials are combined (section 2.4; METHOD.md's defaults)."""

    selection: Literal["best_per_modality", "same_spec", "greedy"] = "best_per_modality"
    """greedy: forward selection with replacement of what adds most to the others, whatever its modality."""
    weighting: Literal["class_rates", "balanced_accuracy", "mean"] = "class_rates"
    tie: Literal["negative", "positive", "margin"] = "negative"
    calibration: Literal["platt", "isotonic"] = "platt"
    """How the margin becomes a probability."""


class StudyConfig(Frozen):
    """One YAML file is one study. Unknown keys are refused."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    seed: int = 0
    cohort: CohortConfig = CohortConfig()
    grid: GridField = PRESETS["paper"]
    atlas: Path | None = None
    """CT template in MNI space to register to; a relative path is relative to the configuration file. None: rlvo's."""
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    space: Space = Space()
    folds: FoldsConfig = FoldsConfig()
    search: SearchConfig = SearchConfig()
    resources: ResourcesConfig = ResourcesConfig()
    mlflow: MlflowConfig = MlflowConfig()
    ensemble: EnsembleConfig = EnsembleConfig()

    @field_validator("space")
    @classmethod
    def _addresses_exist(cls, space: Space) -> Space:
        known = dotted_paths(Configuration().model_dump(mode="json"))
        for path in (*space.enumerate, *space.sample):
            _check_address(path, known)
        return space

    @field_validator("search")
    @classmethod
    def _comparisons_exist(cls, search: SearchConfig) -> SearchConfig:
        known = dotted_paths(Configuration().model_dump(mode="json"))
        for path in search.compare_within:
            _check_address(path, known)
        return search

    @model_validator(mode="after")
    def _space_is_valid(self) -> StudyConfig:
        for path, values in self.space.enumerate.items():
            for value in values:
                self._try(path, value)
        for path, axis in self.space.sample.items():
            for value in axis.choices if hasattr(axis, "choices") else (axis.low, axis.high):
                self._try(path, value)
        if self.search.sampler == "grid":
            self.space.grid()
        if self.search.pruning == "halving":
            self._check_pruning()
        if self.search.defaults_first:
            self._check_defaults()
        return self

    def _check_pruning(self) -> None:
        if "training.epochs" in {*self.space.enumerate, *self.space.sample}:
            raise ValueError("pruning compares configurations at the same epoch: training.epochs cannot be an axis")
        if self.search.first_folds > self.folds.folds:
            raise ValueError(f"search.first_folds: there are {self.folds.folds} folds")
        if self.search.min_epochs > self.training.epochs:
            raise ValueError(f"search.min_epochs: a trial has {self.training.epochs} epochs")

    def _check_defaults(self) -> None:
        for path, axis in self.space.sample.items():
            if not axis.holds(value := self.default(path)):
                raise ValueError(f"search.defaults_first: {path} is {value!r}, which the space does not hold")

    def _try(self, path: str, value: object) -> None:
        try:
            self.configuration({path: value})
        except ValidationError as error:
            raise ValueError(f"space: {path} cannot be {value!r}: {error.errors()[0]['msg']}") from None

    def configuration(self, values: dict[str, Any]) -> Configuration:
        """The base model and training with the space's dotted `values` put in."""
        base = {"model": self.model.model_dump(), "training": self.training.model_dump()}
        return Configuration.model_validate(with_values(base, values))

    def default(self, path: str) -> Scalar:
        """The base value at a dotted path."""
        node: Any = self
        for part in path.split("."):
            node = getattr(node, part)
        return cast(Scalar, node)

    def is_active(self, path: str, values: Mapping[str, Scalar]) -> bool:
        """Whether the axis at `path` matters to the configuration of `values`: `model.daft.bias` needs DAFT."""
        return all(values.get(field, self.default(field)) in needed for field, needed in conditions(path))

    def combinations(self) -> list[dict[str, Scalar]]:
        """The product of the enumerated axes, each point with the axes that matter to it, once."""
        return self._active(self.space.combinations())

    def grid_points(self) -> list[dict[str, Scalar]]:
        """The product of all axes, each point with the axes that matter to it, once."""
        return self._active(self.space.grid())

    def _active(self, points: Sequence[Mapping[str, Scalar]]) -> list[dict[str, Scalar]]:
        active = [{path: value for path, value in point.items() if self.is_active(path, point)} for point in points]
        return [point for number, point in enumerate(active) if point not in active[:number]]

    @property
    def configurations(self) -> int:
        """How many configurations the study trains; a grid has no more than its points."""
        wanted = self.search.configurations
        if self.search.sampler == "grid":
            points = len(self.grid_points())
            return min(wanted or points, points)
        return wanted or len(self.combinations())


def _check_address(path: str, known: Sequence[str]) -> None:
    if path not in known:
        close = difflib.get_close_matches(path, known, n=1)
        raise ValueError(f"no field is at '{path}'" + (f"; did you mean '{close[0]}'?" if close else ""))
