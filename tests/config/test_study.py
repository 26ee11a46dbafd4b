"""The studies in `tune_configs/` are what they claim to be, and a study reads back as it was written."""

from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_model_name
from pydantic import ValidationError

from rlvo.cohort.variables import CTP
from rlvo.config.base import by_path
from rlvo.config.loading import load_study, parse_study
from rlvo.config.model import Configuration
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError

CONFIGS = {path.stem: load_study(path) for path in (Path(__file__).parents[2] / "tune_configs").glob("*.yaml")}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_study_and_its_configurations_read_back_as_they_were_written(name: str) -> None:
    study = CONFIGS[name]
    assert StudyConfig.model_validate_json(study.model_dump_json()) == study
    for configuration in map(study.configuration, study.combinations()):
        again = Configuration.model_validate_json(configuration.model_dump_json())
        assert (again, again.key) == (configuration, configuration.key)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        (
            {"activation_checkpointing": True, "compile": "default"},
            r"^resources: set either activation_checkpointing or",
        ),
        ({"cpus": 1.5}, r"^resources\.cpus: .*integer.*got 1\.5"),
        ({"cpus": 0.5}, r"^resources\.cpus: .*integer.*got 0\.5"),
        (
            {"gpus": 1.5},
            r"^resources\.gpus: a part of one GPU .*, a whole number of them, or auto \(got 1\.5\)$",
        ),
        ({"gpus": -1}, r"^resources\.gpus: a part of one GPU"),
        ({"gpus": float("nan")}, r"^resources\.gpus: a part of one GPU"),
        ({"gpus": "all"}, r"^resources\.gpus: a part of one GPU"),
    ],
)
def test_shares_that_ray_cannot_give_are_refused_in_one_line(resources: dict[str, object], message: str) -> None:
    with pytest.raises(RlvoError, match=message):
        parse_study({"name": "study", "resources": resources})


@pytest.mark.parametrize(("gpus", "known"), [("auto", 0), (0.25, 0.25), (1, 1), (2.0, 2)])
def test_shares_of_a_gpu(gpus: object, known: float) -> None:
    study = parse_study({"name": "study", "resources": {"gpus": gpus}})
    assert (study.resources.gpus, study.resources.known_gpus) == (gpus, known)
    assert study.configuration({}).key == parse_study({"name": "study"}).configuration({}).key


def test_configurations_are_counted_anew_for_a_copy() -> None:
    config = load_study(Path("paper_grid"))
    assert config.configurations == 24
    fewer = config.with_setting("search.configurations", 7)
    assert (fewer.configurations, config.configurations) == (7, 24)
    wider = config.with_setting("space.enumerate", {**config.space.enumerate, "training.batch_size": (1, 2)})
    assert wider.configurations == 48


def test_the_paper_grid_is_96_trials_of_distinct_configurations() -> None:
    study = CONFIGS["paper_grid"]
    keys = {study.configuration(values).key for values in study.space.grid()}
    assert len(keys) == study.configurations == 24
    assert study.configurations * study.folds.folds == 96
    assert (study.training.epochs, study.training.batch_size, study.training.learning_rate) == (60, 1, 1e-4)
    assert study.grid.shape == (246, 295, 258)


def test_models_abc_are_one_row_of_the_paper_grid() -> None:
    grid, own = CONFIGS["paper_grid"], CONFIGS["paper_models_abc"]
    winner = {"model.backbone": "efficientnet-b0", "model.prior": True, "model.fusion": "daft"}
    of_grid = {
        c.key for c in map(grid.configuration, grid.combinations()) if winner.items() <= by_path(c.model_dump()).items()
    }
    assert {own.configuration(values).key for values in own.combinations()} == of_grid
    assert len(of_grid) == 3
    assert own.ablation.drop == CTP
    assert own.folds == grid.folds


def test_the_pruned_search_is_over_the_papers_model_specs() -> None:
    study, paper = CONFIGS["search_asha"], CONFIGS["paper_grid"]
    assert study.space.enumerate == paper.space.enumerate
    assert (study.configurations, study.search.pruning) == (96, "halving")
    assert study.grid == paper.grid
    assert (study.folds, study.training.epochs, study.training.learning_rate) == (paper.folds, 60, 1e-4)


@pytest.mark.parametrize(
    ("training", "space", "largest"),
    [
        ({"micro_batch": 2}, {}, 1),
        ({"micro_batch": 5, "batch_size": 4}, {}, 4),
        ({"micro_batch": 9}, {"sample": {"training.batch_size": {"low": 2, "high": 8}}}, 8),
        ({}, {"enumerate": {"training.batch_size": [1, 2], "training.micro_batch": [4, 8]}}, 2),
    ],
)
def test_parts_that_no_batch_of_the_study_would_need_are_refused(
    training: dict[str, object], space: dict[str, object], largest: int
) -> None:
    with pytest.raises(ValidationError, match=rf"micro_batch: \d is larger than any batch \(batch_size: {largest}\)"):
        StudyConfig.model_validate({"name": "s", "training": training, "space": space})


def test_a_study_may_have_batches_smaller_than_its_parts() -> None:
    space = {"enumerate": {"training.batch_size": [1, 2, 8]}}
    study = StudyConfig.model_validate({"name": "s", "training": {"micro_batch": 4}, "space": space})
    assert [study.configuration(values).training.at_once for values in study.combinations()] == [1, 2, 4]


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", ".", "..", "../a"])
def test_names_of_models_that_mlflow_refuses_are_refused(name: str) -> None:
    with pytest.raises(MlflowException):
        _validate_model_name(name)
    with pytest.raises(RlvoError, match=r"mlflow\.registered_model: MLflow takes no"):
        parse_study({"name": "a", "mlflow": {"registered_model": name}})


@pytest.mark.parametrize("name", ["rlvo-ensemble", "Hospital B, 2026", "münchen.1", ".a"])
def test_names_of_models_that_mlflow_takes_are_taken(name: str) -> None:
    _validate_model_name(name)
    assert parse_study({"name": "a", "mlflow": {"registered_model": name}}).mlflow.registered_model == name


def test_repeats_are_those_of_the_same_configuration() -> None:
    repeats = {"enumerate": {"training.repeat": [0, 1]}}
    drawn = {**repeats, "sample": {"model.dropout": {"choices": [0.0, 0.2]}}}
    study = StudyConfig.model_validate({"name": "s", "space": drawn, "search": {"sampler": "grid"}})
    keys = {study.configuration(values).first_repeat.key for values in study.space.grid()}
    assert (len(keys), study.configurations) == (2, 4)
    for space, search, message in (
        (
            drawn,
            {"sampler": "random", "configurations": 4},
            "repeats share what is drawn only if search.sampler is grid",
        ),
        (repeats, {"pruning": "halving"}, "pruning would choose among repeats"),
    ):
        with pytest.raises(ValidationError, match=message):
            StudyConfig.model_validate({"name": "s", "space": space, "search": search})


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": {"fusion": "offset"}}, "offset"),
        ({"model": {"fusion": "none"}, "training": {"beside_table": True}}, "beside"),
    ],
)
def test_a_regression_of_no_predictors_is_refused(changes: dict[str, object], what: str) -> None:
    content = {"name": "s", "cohort": {"predictors": []}} | changes
    with pytest.raises(ValueError, match=rf"{what}.* fits a regression of the predictors first, and .* has none"):
        StudyConfig.model_validate(content)
    assert StudyConfig.model_validate(content | {"cohort": {"predictors": ["age"]}})
    assert StudyConfig.model_validate(content | {"model": {"fusion": "daft"}, "training": {"beside_table": True}})


def test_scripts_find_settings_where_they_were() -> None:
    """Before their modules were divided."""
    from rlvo.config import model, sections, study, training

    assert study.EnsembleConfig is sections.EnsembleConfig
    assert study.FoldsConfig is sections.FoldsConfig
    assert model.TrainingConfig is training.TrainingConfig
    assert model.AugmentationConfig is training.AugmentationConfig
    assert "age" in study.PAPER_PREDICTORS
