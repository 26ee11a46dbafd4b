"""A configuration: the model spec and its hyperparameters."""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from rlvo.config.base import Frozen, content_hash

BackboneName = Literal["densenet169", "efficientnet-b0", "densenet121", "resnet18"]
Modality = Literal["NCCT", "CTA", "BOTH"]
FusionName = Literal["none", "concat", "film", "daft"]
Probability = Annotated[float, Field(ge=0, le=1)]


class DenseNetOptions(Frozen):
    """Narrower or shallower DenseNets; None keeps MONAI's value."""

    init_features: PositiveInt | None = None
    growth_rate: PositiveInt | None = None
    block_config: tuple[PositiveInt, ...] | None = None
    stem_kernel: Literal[3, 5, 7] = 7


class EfficientNetOptions(Frozen):
    """Scaling of the EfficientNet family (Tan & Le 2019): channels × `width`, blocks × `depth`."""

    width: PositiveFloat = 1.0
    depth: PositiveFloat = 1.0
    head_dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Dropout before the head, instead of `model.dropout`; MONAI's is 0.2. None: `model.dropout`."""
    batch_norm_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of each batch in the running statistics, which validation uses. MONAI's 0.01 needs about 500 steps."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, content: Any, info: ValidationInfo) -> Any:
        return {**BEFORE, **content} if info.mode == "json" and isinstance(content, dict) else content

    @model_serializer(mode="wrap")
    def _leave_out(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        if info.mode == "json":
            content = {name: value for name, value in content.items() if value != BEFORE.get(name, ...)}
        return content


BEFORE: dict[str, Any] = {"head_dropout": None, "batch_norm_momentum": 0.01}
"""What files written before these options existed mean. Where that is still meant, JSON leaves them out, so that files,
keys and hashes stay what they were."""


class ResNetOptions(Frozen):
    """Width of each stage, blocks per stage and stem kernel of a basic-block ResNet."""

    widths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (64, 128, 256, 512)
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (2, 2, 2, 2)
    stem_kernel: Literal[3, 5, 7] = 7


class DaftOptions(Frozen):
    """DAFT (Wolf et al. 2022; the paper's eq. 1–2). `identity_init` starts the scale at 1."""

    bottleneck_ratio: PositiveInt = 7
    bias: bool = False
    scale_activation: Literal["linear", "sigmoid", "tanh"] = "linear"
    scale: bool = True
    shift: bool = True
    identity_init: bool = False


class ModelConfig(Frozen):
    """Model spec: backbone × modality × prior × fusion, with the options of each."""

    backbone: BackboneName = "densenet169"
    modality: Modality = "BOTH"
    prior: bool = False
    fusion: FusionName = "daft"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    compress_input: bool = True
    """Take asinh of the standardised input, so that bone and contrast do not set its scale."""
    densenet: DenseNetOptions = DenseNetOptions()
    efficientnet: EfficientNetOptions = EfficientNetOptions()
    resnet: ResNetOptions = ResNetOptions()
    daft: DaftOptions = DaftOptions()

    @property
    def head_dropout(self) -> float:
        """Dropout before the head."""
        own = self.efficientnet.head_dropout if self.backbone == "efficientnet-b0" else None
        return self.dropout if own is None else own

    @property
    def channels(self) -> tuple[str, ...]:
        """The stored volumes that are stacked as input channels, in this order."""
        images = {"NCCT": ("ncct",), "CTA": ("cta",), "BOTH": ("ncct", "cta")}[self.modality]
        return (*images, "vessels") if self.prior else images


class AugmentationConfig(Frozen):
    """Light 3-D augmentation of training volumes."""

    flip: Probability = 0.5
    """Probability of a left-right flip; the occlusion side in the table is swapped with it."""
    shift_voxels: Annotated[int, Field(ge=0)] = 1
    """Largest shift along each axis, in voxels."""
    intensity: NonNegativeFloat = 0.0
    """SD of a random scale and offset of the standardised intensities."""


class TrainingConfig(Frozen):
    """How one trial is trained. The defaults are the paper's (section 2.4), or METHOD.md's if the paper gives none."""

    epochs: PositiveInt = 60
    batch_size: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-4
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: NonNegativeFloat = 0.0
    schedule: Literal["plateau", "one_cycle"] = "plateau"
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    plateau_patience: Annotated[int, Field(ge=0)] = 10
    clip_norm: PositiveFloat | None = None
    pos_weight: bool = False
    """Weight positives by the training fold's negative/positive ratio."""
    mixed_precision: bool = True
    """Train under bf16 autocast if the device is a GPU that supports it; validation is always in fp32."""
    augmentation: AugmentationConfig = AugmentationConfig()


class Configuration(Frozen):
    """A model spec and its hyperparameters: what Optuna proposes and every fold trains."""

    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()

    @field_validator("model")
    @classmethod
    def _only_own_options(cls, model: ModelConfig) -> ModelConfig:
        """Options of EfficientNet that came later do not enter the keys of other networks."""
        if model.backbone == "efficientnet-b0":
            return model
        return model.model_copy(update={"efficientnet": model.efficientnet.model_copy(update=BEFORE)})

    @cached_property
    def key(self) -> str:
        """Twelve hex digits that identify this configuration by its content and nothing else."""
        return content_hash(self)[:12]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("key", None)  # the copy's fields may differ
        return copied

    @property
    def label(self) -> str:
        """Short name for people, e.g. `densenet169 BOTH +prior daft`."""
        parts = [self.model.backbone, self.model.modality, "+prior" if self.model.prior else "", self.model.fusion]
        return " ".join(part for part in parts if part)
