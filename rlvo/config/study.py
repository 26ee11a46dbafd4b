"""One study: cohort, grid, model space, training, folds, search, resources, MLflow and ensemble."""

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

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
from rlvo.config.space import FieldPath, Scalar, Space, conditions

PAPER_PREDICTORS = (
    "age", "sex", "hypertension", "dyslipidemia", "diabetes", "smoking", "atrial_fibrillation", "nihss", "ivt",
    "unwitnessed_onset", "occlusion_side", "occlusion_site", "cbf_lt30_ml", "tmax_gt4_ml", "tmax_gt6_ml",
    "tmax_gt10_ml", "hir", "tmax4_tmax6_ratio",
)  # fmt: skip
"""The 18 predictors of section 2.2.2; `hir` and `tmax4_tmax6_ratio` are derived."""
Predictor = Annotated[str, Field(json_schema_extra={"enum": list(PAPER_PREDICTORS)})]
"""A predictor's name; whether there is one of this name is checked when the table is read."""


class CohortConfig(Frozen):
    """The table, and which of its columns and derived variables are predictors."""

    table: Path | None = None
    """Cohort table; a relative path is relative to the configuration file. `--cohort` takes precedence."""
    columns: Annotated[dict[str, str], Field(exclude_if=operator.not_)] = Field(default_factory=dict)
    """Columns of the table that have another name there: rlvo's name to the table's, e.g. `age: Edad`."""
    predictors: tuple[Predictor, ...] = PAPER_PREDICTORS
    """The clinical variables that models are given: columns of the table (docs/cohort.md), and `hir` and
    `tmax4_tmax6_ratio`, which are computed. The default is the paper's 18."""
    missing_flags: bool = False
    """Whether each predictor is joined by a 0/1 feature that says whether it was missing."""
    scaling: Literal["quantile", "min_max"] | None = None
    """Which values of a training fold become 0 and 1: its 2.5 % and 97.5 % quantiles, or the extremes (the paper's).
    None: quantile; min_max in a study that was started before this setting existed."""
    imputation: Literal["ratio", "median"] | None = None
    """How a missing Tmax volume is filled in: in proportion to the patient's others, or with the column's median.
    None: ratio; median in a study that was started before this setting existed."""


class FoldsConfig(Frozen):
    """The hold-out and the folds of the other patients; the defaults are the paper's (sections 2.3–2.4)."""

    holdout: Literal["random", "temporal", "center", "list"] = "random"
    """Stratified random; the latest admissions; all patients of `test_centers`; the patients of `test_patients`."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the patients to hold out at random or by date."""
    test_centers: tuple[str, ...] = ()
    """Centres to hold out, as the column `center` names them; with `holdout: center`."""
    test_patients: Path | None = None
    """Text file with one patient id per line, with `holdout: list`; a relative path is relative to the configuration
    file."""
    scheme: Literal["stratified", "leave_one_center_out"] = "stratified"
    """How the other patients are divided; with leave_one_center_out, `folds` must be the number of centres."""
    folds: Annotated[int, Field(ge=2)] = 4
    """How many parts the other patients are divided into; each validates the networks trained on the others."""
    seed: int = 0
    """Of the random division."""
    of_study: Annotated[str | None, Field(exclude_if=operator.not_)] = None
    """Name of a study in the same work folder whose hold-out and folds are taken over; nothing is drawn then."""
    others: Annotated[Literal["leave_out", "train"], Field(exclude_if="leave_out".__eq__)] = "leave_out"
    """With `of_study`: what patients do who are not in that study. train: they train every fold, and validate and test
    none; included are also those whom that study lacks for want of CT perfusion that this one does not use."""

    @model_validator(mode="after")
    def _holdout_is_defined(self) -> Self:
        if (self.holdout == "center") != bool(self.test_centers):
            raise ValueError("set test_centers together with holdout: center, and only then")
        if (self.holdout == "list") != (self.test_patients is not None):
            raise ValueError("set test_patients together with holdout: list, and only then")
        if self.others == "train" and self.of_study is None:
            raise ValueError("set others: train together with of_study")
        return self


class SearchConfig(Frozen):
    """How configurations are chosen and how many trials run at once."""

    sampler: Literal["tpe", "random", "grid"] = "grid"
    """grid: every point of the space; tpe: Optuna proposes what did well; random: drawn."""
    configurations: PositiveInt | None = None
    """How many to train; None: every point of the grid, or one per combination of the enumerated axes."""
    concurrent_trials: PositiveInt | None = None
    """How many trials run at once; None: as many as the cluster's resources allow."""
    max_failures: Annotated[int, Field(ge=0)] = 1
    """How often a trial is restarted after its process has died."""
    seed: int = 0
    """Of the sampler."""
    storage: Annotated[str | None, Field(exclude=True, repr=False)] = None
    """Database (SQLAlchemy address) for Optuna's state; None: a journal in the study folder. The environment variable
    `RLVO_OPTUNA_STORAGE` takes precedence. The address may contain a password, so it is never written to a file."""
    defaults_first: bool = False
    """Whether the first configuration is `model` and `training` as they are, with nothing sampled."""
    pruning: Literal["none", "halving"] = "none"
    """Whether hopeless configurations are stopped early. halving: configurations train in steps, on the first folds
    first; the best of each step continue."""
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    """Each step keeps one configuration in this many, and trains this many times as long."""
    min_epochs: PositiveInt = 10
    """Epochs before the first comparison."""
    first_folds: PositiveInt = 2
    """How many folds comparisons use; only the configurations that are best after all epochs train on the others."""
    bracket: PositiveInt | None = None
    """How many configurations, in the order they are proposed, are compared with one another; None: all."""
    compare_within: tuple[FieldPath, ...] = ("model.modality",)
    """Only configurations with equal values here are compared: an ensemble needs a model of each modality."""


class ResourcesConfig(Frozen):
    """A trial's share of the machine."""

    cpus: PositiveInt = 1
    """CPU cores per trial; so many trials run at once as the machine or cluster has room for."""
    gpus: NonNegativeFloat = 0.0
    """GPUs per trial; with 0.5, two trials share one. 0: trials train on CPUs."""


class MlflowConfig(Frozen):
    """Where runs are kept, and under which name the ensemble is registered."""

    tracking_uri: str | None = None
    """Address of MLflow's server; `MLFLOW_TRACKING_URI` takes precedence. None: `mlflow.db` in the work folder."""
    registered_model: str = "rlvo-ensemble"
    """Name of the registered model."""
    keep_checkpoints: PositiveInt | None = None
    """How many of a study's best checkpoints MLflow keeps; None: all."""
    checkpoint_gb: PositiveFloat | None = None
    """How much disk space the checkpoints may take there, in 1e9 bytes; None: no limit."""

    @field_validator("registered_model")
    @classmethod
    def _mlflow_takes_it(cls, name: str) -> str:
        if not name.strip() or "/" in name or ":" in name or name == "." or name.startswith(".."):
            raise ValueError("MLflow takes no empty name, none with '/' or ':', and neither '.' nor '..'")
        return name


class EnsembleConfig(Frozen):
    """How trials are combined (section 2.4; METHOD.md's defaults)."""

    selection: Literal["best_per_modality", "same_spec", "greedy"] = "best_per_modality"
    """Which configurations it takes. best_per_modality: the best of NCCT, CTA and BOTH; same_spec: one model spec in
    all three; greedy: forward selection with replacement of the model that adds most to the others, whatever its
    modality."""
    member_scale: Annotated[Literal["none", "platt"], Field(exclude_if="none".__eq__)] = "none"
    """Whether members' probabilities are brought to one scale before they are combined. platt: by a logistic fit to
    each member's validation patients, so that an overconfident member does not drown the others; none: as they are
    (the paper's)."""
    weighting: Literal["class_rates", "balanced_accuracy", "mean", "youden", "stacked"] = "class_rates"
    """How members count within a fold. class_rates: by their validation TPR and TNR (the paper's); youden: in log-odds,
    by Youden's J; stacked: by a ridge regression on their log-odds."""
    tie: Literal["negative", "positive", "margin"] = "negative"
    """What a tied vote of the folds means; margin: the sign of the mean margin."""
    calibration: Literal["platt", "isotonic"] = "platt"
    """How the margin becomes a probability; isotonic needs about a thousand patients."""
    chance_members: Literal["abstain", "count"] | None = None
    """What members do that are no better than chance at any threshold: their rates, TPR 0 and TNR 1, would give them
    the largest weight against rLVO. None: abstain; count in a study that was started before this setting existed."""
    calibrated_to: Literal["answers", "folds"] | None = None
    """What the calibrator is fitted to: margins that vary as little as the mean over folds, which is what is answered,
    or those of single folds. None: answers; folds in a study that was started before this setting existed."""


class AblationConfig(Frozen):
    """Models B and C of `rlvo ablate` (section 3.2)."""

    drop: PositiveInt | tuple[str, ...] | None = None
    """Which predictors they go without: so many of the ranking's last, or these. None: the least predictive
    (`rlvo.explain.weakest`)."""


DEFAULTS: dict[str, tuple[object, object]] = {
    "cohort.scaling": ("min_max", "quantile"),
    "cohort.imputation": ("median", "ratio"),
    "model.efficientnet.batch_norm_momentum": (0.01, 0.1),
    "ensemble.calibrated_to": ("folds", "answers"),
    "ensemble.chance_members": ("count", "abstain"),
}
"""Settings that came later, and what they are if a study does not name them: if it was started before, and if it begins
now. They are settled when a study is opened."""


class StudyConfig(Frozen):
    """One YAML file is one study. Unknown keys are refused."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """The study's name: its folder in the work folder, and its experiment in MLflow."""
    seed: int = 0
    """Of weights, batches and augmentation; on CPU, runs with the same seed are identical."""
    cohort: CohortConfig = CohortConfig()
    """The patients' table."""
    grid: GridField = PRESETS["paper"]
    """The voxels in MNI space that volumes are resampled to: `paper` (246×295×258 of about 0.8 mm), `head` (the
    222×271×233 of them that hold the head: a quarter less to compute and to store), `whole` (40×48×40 of 4 mm), `focus`
    (32×24×20 of 4 mm around the circle of Willis), or shape, spacing and origin."""
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

    @model_validator(mode="after")
    def _space_is_valid(self) -> Self:
        sampled = {path: axis.extremes for path, axis in self.space.sample.items()}
        for path, values in {**self.space.enumerated, **sampled}.items():
            for value in values:
                self._try(path, value)
        self._check_points()
        self._check_micro_batch()
        if "occlusion_side" not in self.cohort.predictors and {*self._values("model.side")} != {"as_is"}:
            raise ValueError("model.side: cohort.predictors lacks occlusion_side, which tells the affected side")
        if self.search.sampler == "grid":
            self.space.grid()
        if self.search.pruning == "halving":
            self._check_pruning()
        if self.search.defaults_first:
            self._check_defaults()
        return self

    def _check_points(self) -> None:
        for number, point in enumerate(self.space.points, start=1):
            lacking = [path for path in self.space.enumerated if path not in point and self.is_active(path, point)]
            if lacking:
                raise ValueError(f"space.points: point {number} lacks {', '.join(lacking)}, which others name")

    def _check_micro_batch(self) -> None:
        parts, batches = (self._values(f"training.{name}") for name in ("micro_batch", "batch_size"))
        smallest, largest = min((part for part in parts if part is not None), default=1), max(batches)
        if smallest > largest:
            raise ValueError(f"training.micro_batch: {smallest} is larger than any batch (batch_size: {largest})")

    def _values(self, path: str) -> tuple[Any, ...]:
        """The values that stand for all at a dotted path: those of its axis, or else the default."""
        axis = self.space.sample.get(path)
        return axis.extremes if axis else self.space.enumerated.get(path, (self.default(path),))

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

    def _try(self, path: str, value: object) -> None:
        try:
            self.configuration({path: value})
        except ValidationError as error:
            raise ValueError(f"space: {path} cannot be {value!r}: {error.errors()[0]['msg']}") from None

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

    @property
    def configurations(self) -> int:
        """How many configurations the study trains; a grid has no more than its points."""
        wanted = self.search.configurations
        if self.search.sampler == "grid":
            points = len(self.grid_points())
            return min(wanted or points, points)
        return wanted or len(self.combinations())


Settings = TypeVar("Settings", bound=Frozen)


def _with_setting(settings: Settings, path: Sequence[str], value: object) -> Settings:
    name, *inner = path
    return settings.model_copy(update={name: _with_setting(getattr(settings, name), inner, value) if inner else value})
