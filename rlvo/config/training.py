"""How a trial is trained, and how its volumes are augmented."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from rlvo.config.base import Section, without

CheckpointName = Literal["loss", "auc", "last"]
Probability = Annotated[float, Field(ge=0, le=1)]


class AugmentationConfig(Section):
    """Light 3-D augmentation of training volumes."""

    flip: Probability = 0.5
    """Probability of a left-right flip; the occlusion side in the table is swapped with it."""
    shift_voxels: Annotated[int, Field(ge=0)] = 1
    """Largest shift along each axis, in voxels."""
    intensity: NonNegativeFloat = 0.0
    """SD of a random scale and offset of the standardised intensities."""
    crop_shift_mm: NonNegativeFloat = 4.0
    """How far the box of model.crop lies off its place, at most, along each axis: the place is uncertain."""

    @model_serializer(mode="wrap")
    def _leave_out(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        return without(AUGMENTED_BEFORE, handler(self), info)


AUGMENTED_BEFORE: dict[str, Any] = {"crop_shift_mm": 4.0}
"""What later options of augmentation are in files written before these existed: without a crop it changes nothing."""


class TrainingConfig(Section):
    """How one trial is trained. The defaults are the paper's (section 2.4), or METHOD.md's if the paper gives none."""

    epochs: PositiveInt = 60
    """How often each training patient is seen."""
    batch_size: PositiveInt = 1
    """Patients per step. At 1, batch norm acts like instance norm and can remove the signal (docs/method.md)."""
    micro_batch: PositiveInt | None = None
    """How many of them are computed at once, at most; the gradient is that of the whole batch, but batch norm sees the
    parts (docs/method.md). Smaller takes less memory. None: all."""
    learning_rate: PositiveFloat = 1e-4
    """At the start; with one_cycle the highest."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """adamw: with decoupled weight decay."""
    weight_decay: NonNegativeFloat = 0.0
    """Strength of the pull of the weights towards 0."""
    schedule: Literal["plateau", "one_cycle"] = "plateau"
    """plateau: lower the learning rate if the validation loss stalls; one_cycle: up and down once, by step."""
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """What the learning rate is multiplied by at a plateau."""
    plateau_patience: Annotated[int, Field(ge=0)] = 10
    """Epochs without a lower validation loss before that."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of the gradient. None: no limit."""
    pos_weight: bool = False
    """Weight positives by the training fold's negative/positive ratio."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """ε: the training loss asks for 1 − ε/2 and ε/2 instead of 1 and 0; the validation loss does not. 0: off."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of a moving average of the weights, which is validated and kept in their place; it is shorter in
    the first steps. None: off."""
    checkpoint: CheckpointName = "loss"
    """The epoch whose weights are kept, and whose `val/auc` is the objective: the one with the lowest validation loss,
    the one with the highest validation AUC (the first of equals), or the last."""
    auxiliary: NonNegativeFloat = 0.0
    """Weight of a further loss: that of heads which learn from the image network what it should see, namely those of
    the predictors occlusion_side (unless model.side turns the head), occlusion_site and perfusion volumes that were
    measured. The heads serve in training only. 0: none."""
    beside_table: bool = False
    """Whether a network of fusion none learns what the table leaves unexplained: each training patient's loss is that
    of the network's log-odds plus the table's (a ridge regression, cross-fitted). Its answers are of images alone."""
    repeat: Annotated[int, Field(ge=0, le=99)] = 0
    """Changes nothing but the random numbers. Enumerate [0, 1, 2] and every configuration is trained three times; the
    best is named by their mean, and an ensemble takes all repeats of what it takes, unless it is greedy."""
    restarts: Annotated[int, Field(ge=0, le=9)] = 0
    """How often a trial that never left chance on its own training patients starts again with another seed. 0: never.
    """
    freeze_epochs: Annotated[int, Field(ge=0)] = 0
    """So many epochs at the start leave a pretrained image network as it is, with the statistics of its batch norms;
    only what follows it learns. With model.pretrained."""
    backbone_lr_mult: Annotated[float, Field(gt=0, le=1)] = 1.0
    """What the learning rate is multiplied by for a pretrained image network. With model.pretrained."""
    mixed_precision: bool = True
    """Train under bf16 autocast if the device is a GPU that supports it; validation is always in fp32."""
    deterministic: bool = False
    """Whether runs with the same seed are identical on a GPU too, which is slower there; on CPUs they always are."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes of the training volumes."""
    modality_dropout: Probability = 0.0
    """Probability that a training patient of a BOTH model lacks one of the two volumes, which is 0 everywhere after
    standardisation. Such a model then also answers for patients who lack one (docs/registry.md)."""
    perfusion_dropout: Probability = 0.0
    """Probability that a training patient's CT perfusion is missing, and imputed as for any who lacks it."""

    @property
    def at_once(self) -> int:
        """Patients that are computed at once, at most."""
        return min(self.micro_batch or self.batch_size, self.batch_size)

    @model_serializer(mode="wrap")
    def _leave_out(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        return without(TRAINED_BEFORE, handler(self), info)


TRAINED_BEFORE: dict[str, Any] = {
    "micro_batch": None,
    "label_smoothing": 0.0,
    "ema": None,
    "checkpoint": "loss",
    "auxiliary": 0.0,
    "beside_table": False,
    "repeat": 0,
    "restarts": 0,
    "freeze_epochs": 0,
    "backbone_lr_mult": 1.0,
    "deterministic": False,
    "modality_dropout": 0.0,
    "perfusion_dropout": 0.0,
}
"""What later options of training are in files written before these existed."""
