"""Which model specs a study trains, which of them cost the same, and whether the grid is large enough for them."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

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

Values = tuple[tuple[str, Scalar], ...]
"""Of axes, by dotted path."""


def decisive(combination: Mapping[str, Scalar], also: Sequence[str] = ()) -> Values:
    """The values that decide what a trial costs, and those of the paths in `also`.

    Thousands of combinations differ in nothing else, and to make a configuration of each takes long.
    """
    return tuple(item for item in combination.items() if item[0].startswith((*COSTLY, *also)))


def counted_specs(config: StudyConfig) -> list[tuple[Configuration, int]]:
    """The enumerated combinations, with every sampled axis that decides the cost at each of its ends or choices.

    Those that differ in nothing decisive are one, with their number.
    """
    combinations = config.space.combinations()
    first = {decisive(each): each for each in reversed(combinations)}
    alike = Counter(map(decisive, combinations))
    return [(spec, times) for values, times in alike.items() for spec in specs_of(config, first[values])]


def model_specs(config: StudyConfig) -> list[Configuration]:
    """The same without their numbers."""
    return [spec for spec, _ in counted_specs(config)]


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


def check_models(config: StudyConfig) -> None:
    """Raise RlvoError if the grid is too small for one of the study's networks, naming the smallest that works."""
    from rlvo.training.imports import import_monai

    import_monai()
    from rlvo.models.crop import check_seen
    from rlvo.training.epoch import smallest_part

    one_channel = {"modality": "NCCT", "prior": False, "fusion": "none", "dropout": 0.0, "compress_input": True}
    specs = [(each.model.model_copy(update=one_channel), each.training) for each in model_specs(config)]
    for model, patients in dict.fromkeys((model, smallest_part(each.batch_size, each)) for model, each in specs):
        check_seen(model, config.grid.shape, config.grid, patients)
