"""The search space: enumerated axes and ranges that check themselves, addressed by dotted path."""

import itertools
import json
import operator
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from rlvo.config.base import Section, by_path, did_you_mean
from rlvo.config.model import Configuration

Scalar = bool | int | float | str

CONDITIONS: dict[str, tuple[str, tuple[Scalar, ...]]] = {
    "model.contrast": ("model.side", ("as_is", "canonical")),
    "model.daft.": ("model.fusion", ("daft",)),
    "model.densenet.": ("model.backbone", ("densenet121", "densenet169")),
    "model.efficientnet.": ("model.backbone", ("efficientnet-b0",)),
    "model.efficientnet.batch_norm_momentum": ("model.norm", ("batch",)),
    "model.pretrained.sha256": ("model.pretrained.use", (True,)),
    "model.resnet.": ("model.backbone", ("resnet18",)),
    "training.augmentation.crop_shift_mm": ("model.crop", ("vessels", "occlusion")),
    "training.backbone_lr_mult": ("model.pretrained.use", (True,)),
    "training.beside_table": ("model.fusion", ("none",)),
    "training.freeze_epochs": ("model.pretrained.use", (True,)),
    "training.plateau_": ("training.schedule", ("plateau",)),
}
"""Fields that matter only if another field has one of some values, by how their paths begin."""


@cache
def conditions(path: str) -> tuple[tuple[str, tuple[Scalar, ...]], ...]:
    """The other fields, each with the values it must have for the field at `path` to matter."""
    return tuple(condition for prefix, condition in CONDITIONS.items() if path.startswith(prefix))


@cache
def _paths() -> list[str]:
    return list(by_path(Configuration().model_dump()))


def _check_path(path: str) -> str:
    if path not in _paths():
        raise ValueError(f"there is no field '{path}'{did_you_mean(path, _paths())}")
    return path


FieldPath = Annotated[str, AfterValidator(_check_path), Field(json_schema_extra={"enum": _paths()})]
"""Dotted path of a field of `Configuration`, e.g. `training.learning_rate`."""


class Range(Section):
    """A numeric interval that includes both ends. Its values are integers if `low` and `high` are."""

    low: int | float
    """The lowest value."""
    high: int | float
    """The highest value."""
    log: bool = False
    """Whether values are drawn evenly on a logarithmic scale."""
    step: int | float | None = None
    """Distance between values. None: any value; for integers 1."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range must start above 0, not at {self.low}")
        if self.log and self.step is not None:
            raise ValueError("a range can be log or have a step, not both")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step must be above 0, not {self.step}")
        return self

    def holds(self, value: object) -> bool:
        """Whether `value` lies between the ends."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    @property
    def extremes(self) -> tuple[Scalar, ...]:
        """Values that stand for all: if these are valid, all are."""
        return self.low, self.high

    @property
    def is_integer(self) -> bool:
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    def grid(self) -> list[Scalar]:
        """Every value, for grid search. Raises ValueError for a continuous range."""
        step = self.step or (1 if self.is_integer and not self.log else None)
        if step is None:
            raise ValueError("grid search needs a step (or choices) for every sampled axis")
        count = int((self.high - self.low) / step + 1e-9) + 1
        return [self.low + i * step for i in range(count)]


def _check_distinct(values: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    """YAML has several words for one value, as `no` and `false`; and 1 and 1.0 train the same."""
    if twice := [value for number, value in enumerate(values) if value in values[:number]]:
        raise ValueError(f"{json.dumps(twice[0])} is given twice")
    return values


Values = Annotated[tuple[Scalar, ...], AfterValidator(_check_distinct)]


class Choices(Section):
    """A list of values to choose from."""

    choices: Annotated[Values, Field(min_length=1)]
    """The values."""

    def holds(self, value: object) -> bool:
        """Whether `value` is one of the choices."""
        return value in self.choices

    @property
    def extremes(self) -> tuple[Scalar, ...]:
        return self.choices

    def grid(self) -> list[Scalar]:
        return list(self.choices)


def _kind(axis: Any) -> str:
    return "choices" if isinstance(axis, Choices) or (isinstance(axis, dict) and "choices" in axis) else "range"


Axis = Annotated[Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_kind)]
AXIS_KINDS: dict[str, type[Section]] = {"range": Range, "choices": Choices}


class Space(Section):
    """Axes over the fields of a configuration, e.g. `model.modality` or `training.learning_rate`."""

    enumerate: dict[FieldPath, Values] = Field(default_factory=dict)
    """Values by field; every combination of them gets its share of the configurations."""
    sample: dict[FieldPath, Axis] = Field(default_factory=dict)
    """A range (`low`, `high`, `log`, `step`) or `choices` by field, from which the sampler draws."""
    points: Annotated[tuple[dict[FieldPath, Scalar], ...], Field(exclude_if=operator.not_)] = ()
    """The combinations themselves, one by one, instead of `enumerate`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.enumerate and self.points:
            raise ValueError("give points or axes to enumerate, not both")
        if both := sorted(set(self.enumerated) & set(self.sample)):
            raise ValueError(f"{', '.join(both)} is both enumerated and sampled")
        if empty := [path for path, values in self.enumerate.items() if not values]:
            raise ValueError(f"{', '.join(empty)} has no values to enumerate")
        return self

    @property
    def enumerated(self) -> dict[str, tuple[Scalar, ...]]:
        """The axes that are enumerated, or that the points have, and their values."""
        paths = dict.fromkeys(path for point in self.points for path in point)
        of_points = {path: [point[path] for point in self.points if path in point] for path in paths}
        return {path: tuple(dict.fromkeys(values)) for path, values in of_points.items()} or dict(self.enumerate)

    def combinations(self) -> list[dict[str, Scalar]]:
        """The points, or the product of the enumerated axes; one empty combination if there are none."""
        return [dict(point) for point in self.points] or _product(self.enumerate)

    def grid(self) -> list[dict[str, Scalar]]:
        """The product of all axes. Raises ValueError if a sampled axis is continuous."""
        sampled = _product({path: axis.grid() for path, axis in self.sample.items()})
        return [{**point, **values} for point in self.combinations() for values in sampled]


def _product(axes: Mapping[str, Sequence[Scalar]]) -> list[dict[str, Scalar]]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
