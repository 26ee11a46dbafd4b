"""What would run: counts by hand, costs from a real model."""

import pytest
from support.small_study import MakeStudy

from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError
from rlvo.models.classifier import Classifier
from rlvo.search.plan import plan_study, trial_bytes
from rlvo.study.specs import model_specs

GRID = {"shape": (40, 36, 34), "spacing": (4, 4, 4), "origin": (0, 0, 0)}


def test_trials_epochs_and_disk_are_counted_over_the_enumerated_grid(make_small: MakeStudy) -> None:
    space = {"enumerate": {"model.modality": ["NCCT", "CTA", "BOTH"], "model.fusion": ["none", "daft"]}}
    study = make_small(grid=GRID, space=space, training={"epochs": 7, "batch_size": 4})
    planned = plan_study(study)
    assert (planned.configurations, planned.folds, planned.trials, planned.epochs) == (6, 2, 12, 84)
    assert planned.expected_epochs == 84
    assert planned.tabular_features == 5  # age, sex, nihss, side twice
    weights = [
        sum(p.numel() for p in Classifier(study.configuration(values).model, 5).parameters())
        for values in study.space.combinations()
    ]
    assert planned.checkpoint_bytes == 2 * sum(weights) * 4 * 4
    assert planned.store_bytes_a_patient == 40 * 36 * 34 * (2 + 2 + 1) + (64 << 10)


def test_combinations_that_cost_the_same_are_costed_once_and_counted_each(
    make_small: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred learning rates take as long to plan as one; each is a configuration with weights on the disk."""
    made = list[object]()
    make = StudyConfig.configuration
    monkeypatch.setattr(StudyConfig, "configuration", lambda study, values: made.append(values) or make(study, values))
    points = [{"model.modality": "NCCT", "training.learning_rate": 1e-4 + 1e-6 * number} for number in range(100)]
    study = make_small(
        grid=GRID,
        space={"points": [*points, {"model.modality": "BOTH", "training.learning_rate": 1e-4}]},
        search={"pruning": "none"},
    )
    made.clear()
    planned = plan_study(study)
    assert len(made) < 10
    narrow, wide = (each.parameters for each in planned.models)
    assert narrow < wide
    assert planned.checkpoint_bytes == 2 * (100 * narrow + wide) * 4 * 4


def test_models_that_cost_the_same_are_listed_once(make_small: MakeStudy) -> None:
    planned = plan_study(make_small(grid=GRID, space={"enumerate": {"model.modality": ["NCCT", "CTA", "BOTH"]}}))
    assert [model.channels for model in planned.models] == [1, 2]
    assert planned.models[0].last_map == (8, 2, 2, 2)


def test_sampled_axes_are_planned_at_their_ends(make_small: MakeStudy) -> None:
    sample = {
        "training.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
        "training.batch_size": {"low": 2, "high": 6},
        "training.epochs": {"choices": [5, 9]},
    }
    study = make_small(grid=GRID, space={"sample": sample}, search={"sampler": "tpe", "configurations": 10})
    planned = plan_study(study)
    assert len(model_specs(study)) == 4
    assert planned.epochs == 10 * 2 * 9
    assert planned.sampled == tuple(sample)
    small, large = planned.models
    assert large.activation_bytes == 3 * small.activation_bytes


def test_trials_that_may_start_again_are_told(make_small: MakeStudy) -> None:
    again = make_small(grid=GRID, training={"epochs": 7, "batch_size": 4, "restarts": 2})
    assert plan_study(make_small(grid=GRID)).restarts == 0
    assert (plan_study(again).restarts, plan_study(again).epochs) == (2, 2 * 7)
    drawn = {"sample": {"training.restarts": {"choices": [0, 3]}}}
    assert (
        plan_study(make_small(grid=GRID, space=drawn, search={"sampler": "random", "configurations": 2})).restarts == 3
    )


def test_a_grid_too_small_is_refused(make_small: MakeStudy) -> None:
    with pytest.raises(RlvoError, match="smallest cube"):
        plan_study(make_small(training={"batch_size": 1}))


def test_models_that_are_listed_differ_in_what_is_shown(make_small: MakeStudy) -> None:
    densenet = {"backbone": "densenet121", "densenet": {"block_config": [1], "stem_kernel": 3}}
    sample = {"model.densenet.growth_rate": {"choices": [4, 8]}, "model.daft.bottleneck_ratio": {"choices": [3, 7]}}
    study = make_small(
        model=densenet,
        space={"enumerate": {"model.fusion": ["none", "daft"]}, "sample": sample},
        search={"sampler": "random", "configurations": 2},
    )
    models = plan_study(study).models
    shown = [(m.backbone, m.channels, m.fusion, m.batch_size, *m.options) for m in models]
    assert len(shown) == len({*shown}) == 6
    assert all("daft.bottleneck_ratio" not in " ".join(m.options) for m in models if m.fusion == "none")
    assert {m.options for m in plan_study(make_small(model=densenet)).models} == {()}


def test_memory_is_that_of_the_patients_that_are_computed_at_once(make_small: MakeStudy) -> None:
    (whole,) = plan_study(make_small(grid=GRID, training={"batch_size": 8})).models
    (parts,) = plan_study(make_small(grid=GRID, training={"batch_size": 8, "micro_batch": 2})).models
    (small,) = plan_study(make_small(grid=GRID, training={"batch_size": 2})).models
    assert (whole.batch_size, whole.at_once, parts.batch_size, parts.at_once) == (8, 8, 8, 2)
    assert trial_bytes(parts, whole_grid := (40, 36, 34)) == trial_bytes(small, whole_grid)
    assert parts.activation_bytes * 4 == whole.activation_bytes


def test_memory_is_that_of_the_box_that_is_cut_out(make_small: MakeStudy) -> None:
    """A box of 16×8×10 voxels of 8 mm, and a whole volume of that size; a patient's own volume is counted whole."""
    grid = {"shape": (24, 26, 24), "spacing": (8, 8, 8), "origin": (-92, -110, -100)}
    (whole,) = plan_study(make_small(grid=grid, training={"batch_size": 4})).models
    model = make_small().model.model_dump(mode="json") | {"crop": "vessels"}
    (cropped,) = plan_study(make_small(grid=grid, training={"batch_size": 4}, model=model)).models
    box = {"shape": (16, 8, 10), "spacing": (8, 8, 8), "origin": (0, 0, 0)}
    (same,) = plan_study(make_small(grid=box, training={"batch_size": 4})).models
    assert cropped.activation_bytes == same.activation_bytes < whole.activation_bytes / 8
    assert cropped.last_map == same.last_map
    saved = whole.activation_bytes - cropped.activation_bytes
    assert trial_bytes(whole, shape := (24, 26, 24)) - trial_bytes(cropped, shape) == saved


def test_memory_counts_what_is_computed_again_only_once(make_small: MakeStudy) -> None:
    kept, again = (
        plan_study(make_small(grid=GRID, resources={"activation_checkpointing": asked})) for asked in (False, True)
    )
    assert again.models[0].activation_bytes < kept.models[0].activation_bytes
    assert trial_bytes(again.models[0], GRID["shape"]) < trial_bytes(kept.models[0], GRID["shape"])


def test_a_part_of_one_patient_needs_a_last_map_of_more_than_a_voxel(make_small: MakeStudy) -> None:
    plan_study(make_small(training={"batch_size": 4, "micro_batch": 3}))
    with pytest.raises(RlvoError, match="too small for resnet18 at batch size 1"):
        plan_study(make_small(training={"batch_size": 3, "micro_batch": 2}))
