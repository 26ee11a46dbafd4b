"""What a study would run, without running it."""

from collections import Counter
from dataclasses import dataclass

from rlvo.cohort.encoding import TabularEncoder
from rlvo.config.model import DaftOptions, ModelConfig
from rlvo.config.study import StudyConfig
from rlvo.evaluation.power import AucPower
from rlvo.imaging.store import entry_bytes
from rlvo.search.halving import epochs_to_train, group, ladder
from rlvo.study.inputs import check_models, model_specs

BYTES_PER_WEIGHT = 4
FREE = {"dropout": 0.0, "compress_input": True}
"""Fields of a model that change what it costs by next to nothing."""
CHECKPOINT_COPIES = 4
"""What a trial keeps on disk, in sizes of its model: the best weights, the last ones, and Adam's two moments."""


@dataclass(frozen=True)
class PlannedModel:
    """What one model spec costs in training. Modalities with the same number of channels cost the same."""

    backbone: str
    channels: int
    fusion: str
    batch_size: int
    parameters: int
    forward_gflop: float
    """1e9 floating-point operations of a forward pass of one volume."""
    activation_bytes: int
    """What one batch keeps for the backward pass, in fp32."""
    last_map: tuple[int, ...]
    """Channels and voxels of the last feature map."""


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
    """Over all trials, at most."""
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


def plan_study(study: StudyConfig, *, patients: int | None = None, holdout: AucPower | None = None) -> StudyPlan:
    """Count a study's trials and cost its models on the meta device.

    Args:
        patients: rows of the cohort table, if there is one.
        holdout: what its hold-out can show.

    Raises:
        RlvoError: the grid is too small for a network.
    """
    check_models(study)
    specs, trials = model_specs(study), study.configurations * study.folds.folds
    epochs = max(spec.training.epochs for spec in specs)
    cohort = study.cohort
    encoder = TabularEncoder(predictors=cohort.predictors, missing_flags=cohort.missing_flags, fill={}, bounds={})
    keys = [(_alike(spec.model), spec.training.batch_size) for spec in specs]
    costed = {
        (model, batch): _planned(model, batch, study, len(encoder.feature_names))
        for model, batch in dict.fromkeys(keys)
    }
    parameters = sum(costed[key].parameters for key in keys) / len(keys)
    return StudyPlan(
        study=study.name,
        sampler=study.search.sampler,
        configurations=study.configurations,
        combinations=len(study.space.combinations()),
        sampled=tuple(study.space.sample),
        folds=study.folds.folds,
        trials=trials,
        epochs=trials * epochs,
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
    combinations = [study.configuration(values) for values in study.combinations()]
    size = study.search.bracket or study.configurations
    compared = Counter(
        (number // size, *group(combinations[number % len(combinations)], study.search.compare_within))
        for number in range(study.configurations)
    )
    rungs = ladder(study.search, study.folds.folds, epochs)
    return sum(epochs_to_train(rungs, count, study.search.reduction_factor) for count in compared.values())


def _alike(model: ModelConfig) -> ModelConfig:
    """One model spec to stand for all that cost the same."""
    alike = {1: ("NCCT", False), 2: ("NCCT", True), 3: ("BOTH", True)}
    modality, prior = alike[len(model.channels)]
    daft = model.daft.model_copy(update={"identity_init": False}) if model.fusion == "daft" else DaftOptions()
    return model.model_copy(update={"modality": modality, "prior": prior, "daft": daft, **FREE})


def _planned(model: ModelConfig, batch_size: int, study: StudyConfig, tabular_features: int) -> PlannedModel:
    from rlvo.models.cost import model_cost

    cost = model_cost(model, study.grid.shape, tabular_features)
    return PlannedModel(
        backbone=model.backbone,
        channels=len(model.channels),
        fusion=model.fusion,
        batch_size=batch_size,
        parameters=cost.parameters,
        forward_gflop=cost.forward_gflop,
        activation_bytes=cost.activation_bytes * batch_size,
        last_map=cost.last_map,
    )
