"""The search space: enumerated axes and ranges that check themselves, addressed by dotted path."""

from __future__ import annotations

import itertools
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from rlvo.config.base import Frozen

Scalar = bool | int | float | str

CONDITIONS: dict[str, tuple[str, tuple[Scalar, ...]]] = {
    "model.daft.": ("model.fusion", ("daft",)),
    "model.densenet.": ("model.backbone", ("densenet121", "densenet169")),
    "model.efficientnet.": ("model.backbone", ("efficientnet-b0",)),
    "model.resnet.": ("model.backbone", ("resnet18",)),
    "training.plateau_": ("training.schedule", ("plateau",)),
}
"""By the beginning of their paths, fields that matter only where another field has one of some values."""


class Range(Frozen):
    """A numeric interval, both ends included. Integers where `low` and `high` are integers."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @model_validator(mode="after")
    def _check(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range starts above 0, not at {self.low}")
        if self.log and self.step is not None:
            raise ValueError("a range is log or has a step, not both")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step must be above 0, not {self.step}")
        return self

    def holds(self, value: object) -> bool:
        """Whether `value` lies between the ends."""
        return isinstance(value, int | float) and self.low <= value <= self.high

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


class Choices(Frozen):
    """A list of values to choose from."""

    choices: tuple[Scalar, ...] = Field(min_length=1)

    def holds(self, value: object) -> bool:
        """Whether `value` is one of them."""
        return value in self.choices

    def grid(self) -> list[Scalar]:
        return list(self.choices)


def _kind(axis: Any) -> str:
    return "choices" if isinstance(axis, Choices) or (isinstance(axis, dict) and "choices" in axis) else "range"


Axis = Annotated[Annotated[Range, Tag("range")] | Annotated[Choices, Tag("choices")], Discriminator(_kind)]
AXIS_KINDS: dict[str, type[Frozen]] = {"range": Range, "choices": Choices}


class Space(Frozen):
    """Axes over the fields of a configuration, e.g. `model.modality` or `training.learning_rate`.

    `enumerate`: every combination gets its share of configurations. `sample`: drawn by the sampler.
    """

    enumerate: dict[str, tuple[Scalar, ...]] = Field(default_factory=dict)
    sample: dict[str, Axis] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Space:
        if both := sorted(set(self.enumerate) & set(self.sample)):
            raise ValueError(f"{', '.join(both)} is both enumerated and sampled")
        if empty := [path for path, values in self.enumerate.items() if not values]:
            raise ValueError(f"{', '.join(empty)} enumerates nothing")
        return self

    def combinations(self) -> list[dict[str, Scalar]]:
        """The product of the enumerated axes; one empty combination where none is enumerated."""
        return _product(self.enumerate)

    def grid(self) -> list[dict[str, Scalar]]:
        """The product of all axes. Raises ValueError where a sampled axis is continuous."""
        return _product({**self.enumerate, **{path: axis.grid() for path, axis in self.sample.items()}})


def conditions(path: str) -> list[tuple[str, tuple[Scalar, ...]]]:
    """The fields, each with the values it must have, without which the field at `path` does not matter."""
    return [condition for prefix, condition in CONDITIONS.items() if path.startswith(prefix)]


def _product(axes: Any) -> list[dict[str, Scalar]]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def with_values(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested `base` with dotted paths set. Raises KeyError for a path that does not exist."""
    result = _copy(base)
    for path, value in values.items():
        *parents, leaf = path.split(".")
        node = result
        for parent in parents:
            node = node[parent]
            if not isinstance(node, dict):
                raise KeyError(path)
        if leaf not in node:
            raise KeyError(path)
        node[leaf] = value
    return result


def _copy(node: Any) -> Any:
    return {key: _copy(value) for key, value in node.items()} if isinstance(node, dict) else node


def dotted_paths(base: dict[str, Any], prefix: str = "") -> list[str]:
    """Every leaf path of a nested dictionary, for suggestions."""
    paths: list[str] = []
    for key, value in base.items():
        path = f"{prefix}{key}"
        paths += dotted_paths(value, f"{path}.") if isinstance(value, dict) else [path]
    return paths
