"""A study is read exactly, and every mistake is named with its place and, where one is close, the right key."""

from pathlib import Path

import pytest

from rlvo.config.grid import ATLAS_FIRST_VOXEL, ATLAS_SHAPE, PRESETS
from rlvo.config.loading import load_study, parse_study
from rlvo.config.model import Configuration
from rlvo.errors import RlvoError

CONFIGS = Path(__file__).parents[2] / "tune_configs"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"trainning": {}}, "unknown key 'trainning'; did you mean 'training'?"),
        ({"training": {"epoch": 3}}, "unknown key 'training.epoch'; did you mean 'epochs'?"),
        (
            {"model": {"daft": {"bottleneck": 3}}},
            "unknown key 'model.daft.bottleneck'; did you mean 'bottleneck_ratio'?",
        ),
        ({"training": {"epochs": 0}}, "training.epochs"),
        ({"model": {"backbone": "densenet"}}, "model.backbone"),
        ({"grid": "papper"}, "no grid is named 'papper'"),
        ({"space": {"enumerate": {"model.modalty": ["NCCT"]}}}, "did you mean 'model.modality'?"),
        ({"space": {"enumerate": {"model.modality": ["XR"]}}}, "model.modality cannot be 'XR'"),
        ({"space": {"enumerate": {"model.fusion": []}}}, "enumerates nothing"),
        ({"space": {"sample": {"training.learning_rate": {"low": 1e-2, "high": 1e-4}}}}, "must be below high"),
        ({"space": {"sample": {"training.learning_rate": {"low": 0.0, "high": 1.0, "log": True}}}}, "above 0"),
        ({"space": {"sample": {"training.learning_rate": {"low": -1.0, "high": 1.0}}}}, "cannot be -1.0"),
        (
            {
                "space": {
                    "enumerate": {"model.prior": [True]},
                    "sample": {"model.prior": {"choices": [True, False]}},
                }
            },
            "both enumerated and sampled",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(content: dict, told: str) -> None:
    with pytest.raises(RlvoError) as caught:
        parse_study({"name": "study", "search": {"sampler": "random"}, **content}, where="study.yaml")
    assert told in str(caught.value)
    assert str(caught.value).startswith("study.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_misspelt_range_key_does_not_recite_every_alternative() -> None:
    with pytest.raises(RlvoError) as caught:
        parse_study(
            {
                "name": "s",
                "search": {"sampler": "tpe"},
                "space": {"sample": {"training.learning_rate": {"low": 1, "hihg": 2}}},
            }
        )
    assert "unknown key 'space.sample.training.learning_rate.hihg'; did you mean 'high'?" in str(caught.value)
    assert "Choices" not in str(caught.value)


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: s\n"
        "training: {learning_rate: 1e-4}\n"
        "search: {sampler: random}\n"
        "space: {sample: {training.learning_rate: {choices: [1e-3, 1e-5]}}}\n"
    )
    study = load_study(path)
    assert study.training.learning_rate == 1e-4
    assert study.space.sample["training.learning_rate"].choices == (1e-3, 1e-5)


@pytest.mark.parametrize("text", ["", "- a\n", "a: [\n", "name: a\nname: b\n", "\x00"])
def test_what_is_no_study_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(RlvoError, match=r"study\.yaml"):
        load_study(path)


def test_the_paper_grid_is_96_trials_of_distinct_configurations() -> None:
    study = load_study(CONFIGS / "paper_grid.yaml")
    keys = {study.configuration(values).key for values in study.space.grid()}
    assert len(keys) == study.configurations == 24
    assert study.configurations * study.folds.folds == 96
    assert (study.training.epochs, study.training.batch_size, study.training.learning_rate) == (60, 1, 1e-4)
    assert study.grid.shape == (246, 295, 258)


def test_the_pruned_search_is_over_the_papers_model_specs() -> None:
    study, paper = load_study(CONFIGS / "search_asha.yaml"), load_study(CONFIGS / "paper_grid.yaml")
    assert study.space.enumerate == paper.space.enumerate
    assert (study.configurations, study.search.pruning) == (96, "halving")
    assert study.grid == paper.grid
    assert (study.folds, study.training.epochs, study.training.learning_rate) == (paper.folds, 60, 1e-4)


def test_a_relative_table_is_relative_to_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("name: s\ncohort: {table: data/cohort.csv}\n")
    assert load_study(path).cohort.table == tmp_path / "data" / "cohort.csv"


def test_a_configurations_key_is_its_content() -> None:
    one, same = Configuration(), Configuration.model_validate({"model": {}, "training": {"epochs": 60}})
    other = Configuration.model_validate({"training": {"epochs": 61}})
    assert one.key == same.key != other.key


def test_the_paper_preset_fills_the_atlas_field_of_view() -> None:
    grid = PRESETS["paper"]
    for axis in range(3):
        first_edge = grid.origin[axis] - grid.spacing[axis] / 2
        assert first_edge == pytest.approx(ATLAS_FIRST_VOXEL[axis] - 0.5)
        assert first_edge + grid.shape[axis] * grid.spacing[axis] == pytest.approx(
            ATLAS_FIRST_VOXEL[axis] - 0.5 + ATLAS_SHAPE[axis]
        )
