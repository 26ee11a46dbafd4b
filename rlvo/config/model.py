"""A configuration: the model spec and its hyperparameters."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from rlvo.config.base import Section, content_hash, without
from rlvo.config.pretrained import RANDOM, PretrainedOptions
from rlvo.config.training import AUGMENTED_BEFORE, TrainingConfig
from rlvo.config.training import AugmentationConfig as AugmentationConfig  # scripts find it here
from rlvo.config.training import CheckpointName as CheckpointName

BackboneName = Literal[
    "densenet169", "efficientnet-b0", "densenet121", "resnet18",
    "medicalnet-resnet10", "medicalnet-resnet18", "medicalnet-resnet34", "medicalnet-resnet50", "segresnet",
]  # fmt: skip
Modality = Literal["NCCT", "CTA", "BOTH"]
FusionName = Literal["none", "concat", "film", "daft", "offset"]


class DenseNetOptions(Section):
    """Narrower or shallower DenseNets; None keeps MONAI's value."""

    init_features: PositiveInt | None = None
    """Channels of the first convolution. None: 64."""
    growth_rate: PositiveInt | None = None
    """Channels that each layer adds. None: 32."""
    block_config: tuple[PositiveInt, ...] | None = None
    """Layers in each dense block. None: (6, 12, 24, 16) for densenet121, (6, 12, 32, 32) for densenet169."""
    stem_kernel: Literal[3, 5, 7] = 7
    """Side of the first convolution's kernel, in voxels."""


class EfficientNetOptions(Section):
    """Scaling of the EfficientNet family (Tan & Le 2019): channels × `width`, blocks × `depth`."""

    width: PositiveFloat = 1.0
    """Factor on the channels of every stage."""
    depth: PositiveFloat = 1.0
    """Factor on the blocks of every stage."""
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
        return without(BEFORE, handler(self), info)


BEFORE: dict[str, Any] = {"head_dropout": None, "batch_norm_momentum": 0.01}
"""What EfficientNet's later options are in files written before these existed."""


class ResNetOptions(Section):
    """Width of each stage, blocks per stage and stem kernel of a basic-block ResNet."""

    widths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (64, 128, 256, 512)
    """Channels of each stage."""
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (2, 2, 2, 2)
    """Blocks of each stage."""
    stem_kernel: Literal[3, 5, 7] = 7
    """Side of the first convolution's kernel, in voxels."""


class DaftOptions(Section):
    """DAFT (Wolf et al. 2022; the paper's eq. 1–2). `identity_init` starts the scale at 1."""

    bottleneck_ratio: PositiveInt = 7
    """The hidden layer has (image channels + variables) / this many units, rounded down."""
    bias: bool = False
    """Whether its two linear layers have a bias."""
    scale_activation: Literal["linear", "sigmoid", "tanh"] = "linear"
    """Applied to the scale."""
    scale: bool = True
    """Whether the table scales the feature map."""
    shift: bool = True
    """Whether the table shifts the feature map."""
    identity_init: bool = False
    """Whether the scale starts at 1 and the shift at 0, so that training starts as the image-only network."""


class ModelConfig(Section):
    """Model spec: backbone × modality × prior × fusion, with the options of each."""

    backbone: BackboneName = "densenet169"
    """The image network; the last five have the shapes of networks that others have pretrained (docs/pretrained.md)."""
    modality: Modality = "BOTH"
    """The images it is given; BOTH: NCCT and CTA as two channels."""
    prior: bool = False
    """Whether the vessel mask is one more channel. It is made from CTA, so an NCCT model with it has seen CTA."""
    fusion: FusionName = "daft"
    """How the clinical variables act on the image network; none: images alone; offset: the network adds to the log-odds
    of a penalised regression of the variables, fitted on the same training patients."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a pooled feature is dropped in training, before the last layer."""
    norm: Literal["batch", "group"] = "batch"
    """group: group norm (Wu & He 2018) in the image network, which does not depend on the batch; up to 32 groups of at
    least 4 channels."""
    compress_input: bool = True
    """Take asinh of the standardised input, so that bone and contrast do not set its scale."""
    side: Literal["as_is", "canonical", "halves"] = "as_is"
    """How the affected side is shown. canonical: heads whose occlusion is on the right are mirrored; halves: and the
    mirrored other half stands beside the affected one, as further channels. The table tells the side, to models without
    fusion too; `training.augmentation.flip` then changes nothing."""
    contrast: Literal["none", "mirror_difference"] = "none"
    """mirror_difference: each volume minus its mirror image, as further channels; not with halves, which show both."""
    crop: Literal["whole", "vessels", "occlusion"] = "whole"
    """What of each volume the network is given, in the grid's voxels (docs/method.md). vessels: a box of 120×60×80 mm
    around siphons, carotid ends, M1, proximal M2 and the basilar artery. occlusion: 47×36×47 mm on the affected side,
    where occlusions of the patient's site are; the table tells side and site, to models without fusion too."""
    densenet: DenseNetOptions = DenseNetOptions()
    """Counts with a DenseNet as backbone."""
    efficientnet: EfficientNetOptions = EfficientNetOptions()
    """Counts with backbone efficientnet-b0."""
    resnet: ResNetOptions = ResNetOptions()
    """Counts with backbone resnet18."""
    daft: DaftOptions = DaftOptions()
    """Counts with fusion daft, and film."""
    pretrained: PretrainedOptions = PretrainedOptions()
    """Weights that others trained, from which the image network starts instead of random ones (docs/pretrained.md)."""

    @field_validator("pretrained")
    @classmethod
    def _used_only_if_known(cls, pretrained: PretrainedOptions) -> PretrainedOptions:
        return RANDOM if pretrained.sha256 is None else pretrained

    @model_serializer(mode="wrap")
    def _leave_out(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        return without(MODEL_BEFORE, handler(self), info)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What else names it besides backbone, modality and fusion, e.g. `+prior`."""
        sides = (self.side,) if self.side != "as_is" else ()
        difference = ("+difference",) if self.contrast != "none" else ()
        crop = (f"{self.crop}-crop",) if self.crop != "whole" else ()
        pretrained = ("+pretrained",) if self.pretrained.use else ()
        return (*(("+prior",) if self.prior else ()), *crop, *sides, *difference, *pretrained)

    @property
    def looked_up(self) -> tuple[str, ...]:
        """The predictors that tell the network where to look, whatever its fusion."""
        return _looked_up(self.side, self.crop)

    @property
    def views(self) -> int:
        """How often the image network sees each volume: with its mirror image, or what differs from it, twice."""
        return 2 if self.side == "halves" or self.contrast != "none" else 1

    @property
    def input_channels(self) -> int:
        """How many channels the image network takes: all volumes, then the second view of each."""
        return len(self.channels) * self.views

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


MODEL_BEFORE: dict[str, Any] = {
    "side": "as_is",
    "contrast": "none",
    "crop": "whole",
    "norm": "batch",
    "pretrained": {"sha256": None, "use": False},
}
"""What later options of a model are in files written before these existed."""


AUXILIARY = ("occlusion_side", "occlusion_site", "cbf_lt30_ml", "tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml")
"""The predictors that the picture shows, so that they can teach the image network (`training.auxiliary`)."""


def auxiliary_targets(predictors: Sequence[str], side: str, crop: str = "whole") -> tuple[str, ...]:
    """Those of a study's predictors that auxiliary heads learn, but for what the table has told the network.

    A head that is turned to its affected side tells no side, and a box around the occlusion neither side nor site.

    Args:
        predictors: the study's.
        side: `model.side`.
        crop: `model.crop`.
    """
    told = _looked_up(side, crop)
    return tuple(name for name in AUXILIARY if name in predictors and name not in told)


def _looked_up(side: str, crop: str) -> tuple[str, ...]:
    of_side = ("occlusion_side",) if side != "as_is" or crop == "occlusion" else ()
    return (*of_side, "occlusion_site") if crop == "occlusion" else of_side


class Configuration(Section):
    """A model spec and its hyperparameters: what Optuna proposes and every fold trains."""

    model: ModelConfig = ModelConfig()
    """The network."""
    training: TrainingConfig = TrainingConfig()
    """How it is trained."""

    @field_validator("model")
    @classmethod
    def _only_own_options(cls, model: ModelConfig) -> ModelConfig:
        """Options of EfficientNet that came later do not enter the keys of other networks."""
        if model.backbone == "efficientnet-b0":
            return model
        return model.model_copy(update={"efficientnet": model.efficientnet.model_copy(update=BEFORE)})

    @field_validator("model")
    @classmethod
    def _only_one_comparison(cls, model: ModelConfig) -> ModelConfig:
        """Halves are compared by the network, so there is no difference to add."""
        return model.model_copy(update={"contrast": "none"}) if model.side == "halves" else model

    @field_validator("model")
    @classmethod
    def _only_used_weights(cls, model: ModelConfig) -> ModelConfig:
        """Weights that it does not start from are no part of a configuration; nor is the file's place."""
        pretrained = PretrainedOptions(sha256=model.pretrained.sha256) if model.pretrained.use else RANDOM
        return model.model_copy(update={"pretrained": pretrained})

    @field_validator("training")
    @classmethod
    def _only_parts(cls, training: TrainingConfig) -> TrainingConfig:
        """A batch that is computed whole is the same trial, whatever would be the largest part."""
        is_whole = training.at_once == training.batch_size
        return training.model_copy(update={"micro_batch": None}) if is_whole else training

    @field_validator("training")
    @classmethod
    def _only_what_is_seen(cls, training: TrainingConfig, info: ValidationInfo) -> TrainingConfig:
        """A network loses only what it sees: two volumes, and the table, of which `offset` shows it nothing.

        Only what was learned before is spared, and only images alone are learned beside the table.
        """
        unseen: dict[str, Any] = {}
        if "model" in info.data:
            model: ModelConfig = info.data["model"]
            unseen |= {} if model.modality == "BOTH" else {"modality_dropout": 0.0}
            unseen |= {} if model.pretrained.use else {"freeze_epochs": 0, "backbone_lr_mult": 1.0}
            unseen |= {} if model.fusion not in ("none", "offset") else {"perfusion_dropout": 0.0}
            unseen |= {} if model.fusion == "none" else {"beside_table": False}
            if model.crop == "whole":
                unseen["augmentation"] = training.augmentation.model_copy(update=AUGMENTED_BEFORE)
        return training.model_copy(update=unseen)

    @property
    def answers_without(self) -> tuple[tuple[str, ...], ...]:
        """The sets of channels that a patient may lack, because training patients did; the vessels go with the CTA."""
        if self.training.modality_dropout == 0:
            return ()
        return ("ncct",), tuple(name for name in self.model.channels if name != "ncct")

    @property
    def needs_clinical_logits(self) -> bool:
        """Whether training begins with a regression of the predictors, to which the network learns to add."""
        return self.model.fusion == "offset" or self.training.beside_table

    @cached_property
    def key(self) -> str:
        """Twelve hex digits that identify this configuration by its content and nothing else."""
        return content_hash(self)[:12]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("key", None)  # the copy's fields may differ
        return copied

    @property
    def first_repeat(self) -> Self:
        """What all repeats of it share: itself with `training.repeat` 0."""
        if self.training.repeat == 0:
            return self
        return self.model_copy(update={"training": self.training.model_copy(update={"repeat": 0})})

    @property
    def label(self) -> str:
        """Short name for people, e.g. `densenet169 BOTH +prior daft`; with `#1` if `training.repeat` is 1."""
        repeat = (f"#{self.training.repeat}",) if self.training.repeat else ()
        return " ".join([self.model.backbone, self.model.modality, *self.model.inputs, self.model.fusion, *repeat])
