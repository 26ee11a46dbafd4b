"""What a study would run, without running it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rlvo.cohort.encoding import unfitted_encoder
from rlvo.config.base import by_path
from rlvo.config.model import ModelConfig
from rlvo.config.space import conditions
from rlvo.config.study import StudyConfig
from rlvo.evaluation.power import AucPower
from rlvo.imaging.entry_size import entry_bytes
from rlvo.progress import Advance
from rlvo.search.halving import epochs_to_train, group, ladder
from rlvo.study.specs import Spec, check_models, counted_specs, decisive, spec_of

BYTES_PER_WEIGHT = 4
PROCESS_BYTES = 900_000_000
"""What a trial's process takes on a CPU before it has a network: Python, torch and its libraries."""
TRAINED_COPIES = 4
"""What training holds in memory, in sizes of the model: weights, gradients, and Adam's two moments."""
CHECKPOINT_COPIES = 4
"""What a trial keeps on disk, in sizes of its model: the best weights, the last ones, and Adam's two moments."""


@dataclass(frozen=True)
class PlannedModel:
    """What one model spec costs in training. Modalities with the same number of channels cost the same."""

    backbone: str
    channels: int
    fusion: str
    batch_size: int
    at_once: int
    """Patients of a batch that are computed at once, at most."""
    parameters: int
    forward_gflop: float
    """1e9 floating-point operations of a forward pass of one volume."""
    activation_bytes: int
    """What is kept for the backward pass of the patients that are computed at once, in fp32."""
    last_map: tuple[int, ...]
    """Channels and voxels of the last feature map."""
    options: tuple[str, ...] = ()
    """Options of the network in which the study's models differ, with their values, e.g. `densenet.growth_rate 8`."""


@dataclass(frozen=True)
class StudyPlan:
    """Counts and costs of a study. For a sampled axis, costs are those at its ends or choices."""

    study: str
    sampler: str
    configurations: int
    combinations: int
    """Of the enumerated axes' values: each gets its share of the configurations."""
    sampled: tuple[str, ...]
    """Axes that the sampler chooses, as dotted paths."""
    folds: int
    trials: int
    epochs: int
    """Over all trials, at most, if none starts again."""
    restarts: int
    """How often a trial starts again, at most, if it never left chance (`training.restarts`); epochs, and hours, are
    without that."""
    expected_epochs: int
    """About how many with pruning, if no trial fails and every enumerated combination has the same number of points."""
    pruning: str
    """How trials are stopped before their last epoch, or never started."""
    grid: tuple[int, int, int]
    tabular_features: int
    """Encoded variables T per patient."""
    models: tuple[PlannedModel, ...]
    checkpoint_bytes: int
    """Disk space for the checkpoints of all trials, if every spec gets the same number of them."""
    store_bytes_a_patient: int
    """Disk space for one patient's prepared volumes."""
    patients: int | None
    """Rows of the cohort table, if one is named."""
    holdout: AucPower | None
    """What the hold-out can show, if the cohort is sound."""
    notes: tuple[str, ...] = ()
    """What had to be decided to read the table."""


def plan_study(
    study: StudyConfig,
    *,
    patients: int | None = None,
    holdout: AucPower | None = None,
    advance: Advance = lambda done, total: None,
) -> StudyPlan:
    """Count a study's trials and cost its models on the meta device.

    Args:
        patients: rows of the cohort table, if there is one.
        holdout: what its hold-out can show.
        advance: called with (models costed, models in all).

    Raises:
        RlvoError: the grid is too small for a network.
    """
    check_models(study)
    counted, trials = counted_specs(study), study.configurations * study.folds.folds
    specs = [spec for spec, _ in counted]
    epochs = max(spec.training.epochs for spec in specs)
    encoder = unfitted_encoder(study.cohort)
    keys, costed = [spec_of(spec) for spec in specs], dict[Spec, PlannedModel]()
    distinct = dict.fromkeys(keys)
    options = _differing_options([model for model, *_ in distinct])
    for spec, differing in zip(distinct, options, strict=True):
        advance(len(costed), len(distinct))
        costed[spec] = _planned(spec, study, len(encoder.feature_names), differing)
    times = [number for _, number in counted]
    parameters = fmean((costed[key].parameters for key in keys), weights=times)
    return StudyPlan(
        study=study.name,
        sampler=study.search.sampler,
        configurations=study.configurations,
        combinations=len(study.space.combinations()),
        sampled=tuple(study.space.sample),
        folds=study.folds.folds,
        trials=trials,
        epochs=trials * epochs,
        restarts=max(spec.training.restarts for spec in specs),
        expected_epochs=_expected_epochs(study, epochs),
        pruning=study.search.pruning,
        grid=study.grid.shape,
        tabular_features=len(encoder.feature_names),
        models=tuple(costed.values()),
        checkpoint_bytes=round(trials * parameters * BYTES_PER_WEIGHT * CHECKPOINT_COPIES),
        store_bytes_a_patient=entry_bytes(study.grid),
        patients=patients,
        holdout=holdout,
    )


def _expected_epochs(study: StudyConfig, epochs: int) -> int:
    within, combinations = study.search.compare_within, study.combinations()
    values = [decisive(each, within) for each in combinations]
    one_of_each = dict(zip(values, combinations, strict=True))
    groups = {own: group(study.configuration(each), within) for own, each in one_of_each.items()}
    size = study.search.bracket or study.configurations
    compared = Counter(
        (number // size, *groups[values[number % len(values)]]) for number in range(study.configurations)
    )
    rungs = ladder(study.search, study.folds.folds, epochs)
    return sum(epochs_to_train(rungs, count, study.search.reduction_factor) for count in compared.values())


def trial_bytes(model: PlannedModel, grid: tuple[int, int, int], *, bfloat16: bool = False) -> int:
    """Memory that training a model takes: weights, gradients, the optimizer's state, patients and what is kept of them.

    Args:
        bfloat16: maps are kept in half of what they take in fp32.
    """
    return certain_bytes(model, grid) + model.activation_bytes // (2 if bfloat16 else 1)


def certain_bytes(model: PlannedModel, grid: tuple[int, int, int]) -> int:
    """The same without what is kept: less is not possible."""
    volumes = model.at_once * model.channels * math.prod(grid)
    return BYTES_PER_WEIGHT * (model.parameters * TRAINED_COPIES + volumes)


def _differing_options(models: Sequence[ModelConfig]) -> list[tuple[str, ...]]:
    """For each model, its options that not all share; those of other backbones and fusions do not count."""
    shown = {"backbone", "modality", "prior", "fusion"}
    values = [by_path(model.model_dump()) for model in models]
    differing = [name for name in values[0] if name not in shown and len({str(each[name]) for each in values}) > 1]
    return [
        tuple(
            f"{name} {each[name]}"
            for name in differing
            if all(each[path.removeprefix("model.")] in needed for path, needed in conditions(f"model.{name}"))
        )
        for each in values
    ]


def _planned(spec: Spec, study: StudyConfig, tabular_features: int, options: tuple[str, ...]) -> PlannedModel:
    from rlvo.models.cost import model_cost
    from rlvo.models.crop import as_whole

    model, batch_size, at_once = spec
    cost = model_cost(*as_whole(model, study.grid.shape, study.grid), tabular_features)
    kept = cost.recomputed_bytes if study.resources.activation_checkpointing else cost.activation_bytes
    return PlannedModel(
        backbone=model.backbone,
        channels=len(model.channels),
        fusion=model.fusion,
        batch_size=batch_size,
        at_once=at_once,
        parameters=cost.parameters,
        forward_gflop=cost.forward_gflop,
        activation_bytes=kept * at_once,
        last_map=cost.last_map,
        options=options,
    )
