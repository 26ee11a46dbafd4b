"""Which model specs a study trains, and which of them cost the same."""

import itertools
from collections.abc import Mapping

from rlvo.config.model import Configuration, DaftOptions, ModelConfig
from rlvo.config.pretrained import RANDOM
from rlvo.config.space import Scalar
from rlvo.config.study import StudyConfig

COSTLY = ("model.", "training.batch_size", "training.micro_batch", "training.epochs", "training.restarts")
"""Axes that decide what a trial costs."""
FREE = {"dropout": 0.0, "compress_input": True, "pretrained": RANDOM}
"""Fields of a model that change what it costs by next to nothing."""
Spec = tuple[ModelConfig, int, int]
"""A model spec that stands for all that cost the same, its batch size, and how many patients are computed at once."""


def model_specs(config: StudyConfig) -> list[Configuration]:
    """The enumerated combinations, with every sampled axis that decides the cost at each of its ends or choices."""
    return [spec for combination in config.space.combinations() for spec in specs_of(config, combination)]


def specs_of(config: StudyConfig, combination: Mapping[str, Scalar]) -> list[Configuration]:
    """One enumerated combination, with every sampled axis that decides the cost at each of its ends or choices."""
    sampled = {path: axis for path, axis in config.space.sample.items() if path.startswith(COSTLY)}
    return [
        config.configuration({**combination, **dict(zip(sampled, values, strict=True))})
        for values in itertools.product(*(axis.extremes for axis in sampled.values()))
    ]


def spec_of(configuration: Configuration) -> Spec:
    """What a configuration's cost depends on, the grid apart."""
    training = configuration.training
    return _alike(configuration.model), training.batch_size, training.at_once


def _alike(model: ModelConfig) -> ModelConfig:
    """One model spec to stand for all that cost the same."""
    alike = {1: ("NCCT", False), 2: ("NCCT", True), 3: ("BOTH", True)}
    modality, prior = alike[len(model.channels)]
    daft = model.daft.model_copy(update={"identity_init": False}) if model.fusion == "daft" else DaftOptions()
    return model.model_copy(update={"modality": modality, "prior": prior, "daft": daft, **FREE})
