"""The sections of a study file, apart from its models, their training and the space."""

import operator
from pathlib import Path
from typing import Annotated, Literal, Self

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

from rlvo.config.base import Section, Seed
from rlvo.config.predictors import PAPER_PREDICTORS, OwnPredictor, Predictor
from rlvo.config.space import FieldPath


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
