"""How many trials share a GPU: by memory, cores and trials, computed by hand; what a step is measured on."""

import math
from dataclasses import replace

import pytest
from support.small_study import MakeStudy
from torch import Tensor

from rlvo.config.study import StudyConfig
from rlvo.models.classifier import Classifier
from rlvo.search.packing import (
    ESTIMATE_MARGIN,
    MEASURE_MARGIN,
    MOST_PER_GPU,
    Gpus,
    largest_of_each_backbone,
    settle_share,
    step_bytes,
)
from rlvo.search.plan import plan_study
from rlvo.study.specs import model_specs
from rlvo.training.records import CONTEXT_BYTES

GB = 10**9
RATES = {"enumerate": {"training.learning_rate": [1e-3 / n for n in range(1, 51)]}}
"""With two folds, 100 trials."""


def share(config: StudyConfig, *nodes: Gpus, measured: float | None = None) -> object:
    return settle_share(config, plan_study(config), nodes, measured).resources.gpus


def needs(gigabytes: float) -> float:
    """What a step was measured to take, if a trial with its process is then counted as so much."""
    return (gigabytes * GB - CONTEXT_BYTES) / MEASURE_MARGIN


def test_as_many_share_a_gpu_as_its_memory_and_the_cores_have_room_for(make_small: MakeStudy) -> None:
    config = make_small(space=RATES, resources={"cpus": 2, "gpus": "auto"})
    large = Gpus(1, 140 * GB, 64)
    assert share(config, large, measured=needs(34.9)) == 0.25
    assert share(config, large, measured=needs(35.1)) == 0.3333, "three of Ray's parts are no more than a GPU"
    assert share(config, large, measured=needs(139)) == 1
    assert share(config, large, measured=needs(900)) == 1, "too large for it; the verdict says so"
    assert share(config, replace(large, cores=11), measured=needs(10)) == 0.2
    assert share(config, replace(large, count=8), measured=needs(10)) == 0.25, "64 cores for 8 GPUs"
    assert share(config, replace(large, cores=1), measured=needs(10)) == 1
    assert share(config, large, measured=needs(2)) == 1 / MOST_PER_GPU
    assert share(config, replace(large, memory=math.inf), measured=None) == 1 / MOST_PER_GPU


def test_no_trial_gets_less_than_there_is_for_it(make_small: MakeStudy) -> None:
    one_trial_each = make_small(resources={"gpus": "auto"})  # two folds
    node = Gpus(1, 140 * GB, 64)
    assert share(one_trial_each, node, measured=needs(10)) == 0.5
    assert share(one_trial_each, replace(node, count=2), measured=needs(10)) == 1
    few = make_small(space=RATES, resources={"gpus": "auto"}, search={"concurrent_trials": 3})
    assert share(few, node, measured=needs(10)) == 0.3333


def test_of_different_gpus_the_smallest_decides(make_small: MakeStudy) -> None:
    config = make_small(space=RATES, resources={"gpus": "auto"})
    small, large = Gpus(2, 24 * GB, 64), Gpus(4, 80 * GB, 64)
    assert share(config, large, measured=needs(11)) == 0.1428
    assert share(config, large, small, measured=needs(11)) == share(config, small, measured=needs(11)) == 0.5


def test_what_was_not_measured_is_estimated_with_a_wider_margin(make_small: MakeStudy) -> None:
    config = make_small(space=RATES, resources={"gpus": "auto"}, training={"batch_size": 4, "epochs": 2})
    planned = plan_study(config)
    (model,) = planned.models
    weights, volumes = 4 * 4 * model.parameters, 4 * 4 * 16**3  # bytes in fp32: four copies; a batch of one channel
    estimated = weights + volumes + model.activation_bytes // 2  # maps are kept in bf16
    for trials in (2, 5):
        memory = trials * (estimated * ESTIMATE_MARGIN + CONTEXT_BYTES)
        assert share(config, Gpus(1, memory * 1.001, 64)) == round(1 / trials, 4)
        assert share(config, Gpus(1, memory * 0.999, 64)) == math.floor(1e4 / (trials - 1)) / 1e4


def test_a_share_that_is_named_stays_and_without_a_gpu_auto_is_none(make_small: MakeStudy) -> None:
    for gpus in (0.0, 0.5, 1.0, 2.0):
        assert share(make_small(resources={"gpus": gpus}), Gpus(1, 140 * GB, 64), measured=1) == gpus
    assert share(make_small(resources={"gpus": "auto"})) == 0


def test_a_step_is_measured_on_the_largest_network_of_each_backbone_as_trials_compute_it(
    make_small: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = {"model.backbone": ["resnet18", "efficientnet-b0"], "model.modality": ["NCCT", "BOTH", "CTA"]}
    small = {"resnet": {"widths": [4, 4, 8, 8], "stem_kernel": 3}, "efficientnet": {"width": 0.25, "depth": 0.25}}
    config = make_small(
        model=small, space={"enumerate": axes}, training={"batch_size": 4, "micro_batch": 3, "epochs": 1}
    )
    chosen = largest_of_each_backbone(config, plan_study(config))
    assert {(each.model.backbone, each.model.modality) for each in chosen} == {
        ("resnet18", "BOTH"),
        ("efficientnet-b0", "BOTH"),
    }
    assert len(model_specs(config)) == 6
    computed: list[tuple[bool, tuple[int, ...]]] = []
    forward = Classifier.forward

    def seen(classifier: Classifier, volume: Tensor, tabular: Tensor | None = None) -> Tensor:
        computed.append((classifier.training, tuple(volume.shape)))
        return forward(classifier, volume, tabular)

    monkeypatch.setattr(Classifier, "forward", seen)
    assert step_bytes(chosen, config.cohort, config.grid, config.resources) == 0, "there is no GPU to take memory of"
    steps, validated = [(True, (2, 2, 16, 16, 16))] * 4, [(False, (n, 2, 16, 16, 16)) for n in (3, 3, 2)]
    assert computed == [*steps, *validated] * 4, "two rounds of each"
