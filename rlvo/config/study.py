"""One study: cohort, grid, model space, training, folds, search, resources, MLflow and ensemble."""

import itertools
import json
import operator
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from rlvo.config.arteries import why_no_box
from rlvo.config.base import Section, Seed
from rlvo.config.grid import PRESETS, GridField
from rlvo.config.model import AUXILIARY, Configuration, ModelConfig, auxiliary_targets
from rlvo.config.predictors import PAPER_PREDICTORS, OwnPredictor, Predictor
from rlvo.config.space import FieldPath, Scalar, Space, conditions
from rlvo.config.training import TrainingConfig


class CohortConfig(Section):
    """The table, and which of its columns and derived variables are predictors."""

    table: Path | None = None
    """Cohort table; a relative path is relative to the configuration file. `--cohort` takes precedence."""
    columns: Annotated[dict[str, str], Field(exclude_if=operator.not_)] = Field(default_factory=dict)
    """Columns of the table that have another name there: rlvo's name to the table's, e.g. `age: Edad`."""
    predictors: tuple[Predictor, ...] = PAPER_PREDICTORS
    """The clinical variables that models are given: columns of the table (docs/cohort.md), and `hir` and
    `tmax4_tmax6_ratio`, which are computed. The default is the paper's 18. Any other column is declared: `name`, `kind`
    and, as its kind has them, `unit`, `range`, `levels`, `source`."""
    missing_flags: bool = False
    """Whether each predictor is joined by a 0/1 feature that says whether it was missing."""
    scaling: Literal["quantile", "min_max"] | None = None
    """Which values of a training fold become 0 and 1: its 2.5 % and 97.5 % quantiles, or the extremes (the paper's).
    None: quantile; min_max in a study that was started before this setting existed."""
    imputation: Literal["ratio", "median"] | None = None
    """How a missing Tmax volume is filled in: in proportion to the patient's others, or with the column's median.
    None: ratio; median in a study that was started before this setting existed."""

    @property
    def names(self) -> tuple[str, ...]:
        """The predictors' names."""
        return tuple(each if isinstance(each, str) else each.name for each in self.predictors)

    @property
    def own(self) -> tuple[OwnPredictor, ...]:
        """The predictors that are declared."""
        return tuple(each for each in self.predictors if not isinstance(each, str))


class FoldsConfig(Section):
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
    seed: Seed = 0
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


class SearchConfig(Section):
    """How configurations are chosen and how many trials run at once."""

    sampler: Literal["tpe", "random", "grid"] = "grid"
    """grid: every point of the space; tpe: Optuna proposes what did well; random: drawn."""
    configurations: Annotated[PositiveInt, Field(le=100_000)] | None = None
    """How many to train, at most 100,000; None: every point of the grid, or one per combination of the enumerated
    axes."""
    concurrent_trials: PositiveInt | None = None
    """How many trials run at once; None: as many as the cluster's resources allow."""
    max_failures: Annotated[int, Field(ge=0)] = 1
    """How often a trial is restarted after its process has died."""
    seed: Seed = 0
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


Compile = Literal["none", "default", "cuda_graphs"]


class ResourcesConfig(Section):
    """A trial's share of the machine."""

    cpus: PositiveInt = 1
    """CPU cores per trial; so many trials run at once as the machine or cluster has room for."""
    gpus: NonNegativeFloat | Literal["auto"] = 0.0
    """GPUs per trial; with 0.5, two trials share one, and neither takes more than its half of the memory. 0: trials
    train on CPUs. auto: as many trials share a GPU as its memory, measured before the first starts, and the node's
    cores have room for; 0 if there is no GPU."""
    memory_gb: Annotated[NonNegativeFloat | None, Field(allow_inf_nan=False)] = None
    """Main memory that Ray sets aside for a trial, in 1e9 bytes; 0: none. None: on a cluster what a trial is estimated
    to take, on one machine none."""
    activation_checkpointing: bool = False
    """Whether training keeps only the inputs of a network's blocks and computes their maps again: less
    memory for one more forward pass, and the same results (docs/search.md)."""
    compile: Compile = "none"
    """Whether training steps run as code that torch compiles for each network; results differ by rounding. cuda_graphs:
    and a GPU replays each pass as one launch. Not with activation_checkpointing."""

    @field_validator("gpus", mode="wrap")
    @classmethod
    def _can_be_dealt(cls, value: object, handler: ValidatorFunctionWrapHandler) -> float | str:
        try:
            gpus: float | str = handler(value)
        except ValidationError:  # it names both kinds, in pydantic's words
            gpus = -1.0
        if isinstance(gpus, float) and (gpus < 0 or (gpus > 1 and not gpus.is_integer())):
            raise ValueError("a part of one GPU (0 to 1), a whole number of them, or auto")
        return gpus

    @model_validator(mode="after")
    def _either_recomputes_or_compiles(self) -> Self:
        if self.activation_checkpointing and self.compile != "none":
            raise ValueError("set either activation_checkpointing or compile")
        return self

    @property
    def known_gpus(self) -> float:
        """GPUs per trial; 0 as long as `auto` has not become a number."""
        return 0.0 if self.gpus == "auto" else self.gpus


class MlflowConfig(Section):
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


class EnsembleConfig(Section):
    """How trials are combined (section 2.4; METHOD.md's defaults)."""

    selection: Literal["best_per_modality", "same_spec", "greedy"] = "best_per_modality"
    """Which configurations it takes. best_per_modality: the best of NCCT, CTA and BOTH; same_spec: one model spec in
    all three; greedy: forward selection with replacement of the model that adds most to the others, whatever its
    modality."""
    choice: Annotated[Literal["best", "one_standard_error"], Field(exclude_if="best".__eq__)] = "best"
    """Which is the best of a modality, for best_per_modality: the one with the highest objective, or, of those within
    one standard error of it, the one with the fewest weights (Breiman et al. 1984)."""
    member_scale: Annotated[Literal["none", "platt"], Field(exclude_if="none".__eq__)] = "none"
    """Whether members' probabilities are brought to one scale before they are combined. platt: by a logistic fit to
    each member's validation patients, so that an overconfident member does not drown the others; none: as they are
    (the paper's)."""
    table_member: Annotated[Literal["none", "ridge"], Field(exclude_if="none".__eq__)] = "none"
    """Whether a model of the table alone is one more member of each fold (late fusion). ridge: a penalised logistic
    regression, fitted to the fold's training patients; with `selection: greedy` it is taken if that raises the AUC of
    the validation patients."""
    linear_image: Annotated[Literal["none", "alone", "with_table"], Field(exclude_if="none".__eq__)] = "none"
    """Whether the linear model of the volumes, a baseline that networks have to beat, is one more member of each fold,
    as the table's model is. alone: it reads NCCT and CTA; with_table: the table too, and `table_member` adds little."""
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


class AblationConfig(Section):
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
