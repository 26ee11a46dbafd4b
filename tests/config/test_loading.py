"""A study is read exactly, and every mistake is named with its place and, if one is close, the right key."""

from pathlib import Path

import pytest

from rlvo.config.loading import load_study, parse_study
from rlvo.errors import RlvoError


def sampled(**axis: object) -> dict[str, object]:
    return {"space": {"sample": {"training.learning_rate": axis}}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"trainning": {}}, "unknown key 'trainning'; did you mean 'training'?"),
        ({"training": {"epoch": 3}}, "unknown key 'training.epoch'; did you mean 'epochs'?"),
        ({"model": {"daft": {"bottleneck": 3}}}, "key 'model.daft.bottleneck'; did you mean 'bottleneck_ratio'?"),
        ({"training": {"epochs": True}}, "training.epochs: a number is needed here, not true or false"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate: Input should be a finite number"),
        (sampled(low=1e-4, high=float("inf")), "Input should be a finite number"),
        ({"model": {"resnet": {"widths": [4, True, 4, 4]}}}, "model.resnet.widths: a number is needed here"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0 (got -1)"),
        ({"search": {"seed": 2**32}}, "search.seed: Input should be less than 4294967296"),
        ({"search": {"configurations": 10**9}}, "search.configurations: Input should be less than or equal to 100000"),
        ({"name": "Default"}, "name: MLflow keeps this name"),
        ({"name": "a" * 101}, "name: String should have at most 100 characters"),
        ({"space": {"enumerate": {"model.prior": [False, False]}}}, "model.prior: false is given twice"),
        ({"space": {"enumerate": {"model.prior": ["no", False]}}}, "model.prior: false is given twice, in two ways"),
        ({"space": {"enumerate": {"training.batch_size": ["4", 4]}}}, "training.batch_size: 4 is given twice"),
        (sampled(choices=[1, 1.0]), "learning_rate: 1.0 is given twice"),
        ({"training": {"epochs": 0}}, "training.epochs: Input should be greater than 0 (got 0)"),
        ({"model": {"backbone": "densenet"}}, "model.backbone"),
        (
            {"grid": "papper"},
            "grid: unknown preset; use paper, head, whole, focus, arteries, or give shape, spacing and origin",
        ),
        (
            {"space": {"enumerate": {"model.modalty": ["NCCT"]}}},
            "space.enumerate.model.modalty: there is no field 'model.modalty'; did you mean 'model.modality'?",
        ),
        ({"space": {"enumerate": {"model.modality": ["XR"]}}}, "model.modality cannot be 'XR'"),
        ({"space": {"enumerate": {"model.fusion": []}}}, "model.fusion has no values to enumerate"),
        (sampled(low=1e-2, high=1e-4), "must be below high"),
        (sampled(low=0.0, high=1.0, log=True), "must start above 0"),
        (sampled(low=-1.0, high=1.0), "cannot be -1.0"),
        (sampled(low=1, hihg=2), "unknown key 'space.sample.training.learning_rate.hihg'; did you mean 'high'?"),
        (
            {"space": {"enumerate": {"model.prior": [True]}, "sample": {"model.prior": {"choices": [True, False]}}}},
            "both enumerated and sampled",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(content: dict[str, object], message: str) -> None:
    with pytest.raises(RlvoError) as caught:
        parse_study({"name": "study", "search": {"sampler": "random"}, **content}, where="study.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("study.yaml: ")
    assert "\n" not in str(caught.value)
    assert "Choices" not in str(caught.value)  # of the alternatives, only the one that was meant is mentioned


def test_a_file_is_read_as_yaml_1_2_with_paths_relative_to_it(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: s\n"
        "cohort: {table: data/cohort.csv}\n"
        "training: {learning_rate: 1e-4}\n"
        "search: {sampler: random}\n"
        "space: {sample: {training.learning_rate: {choices: [1e-3, 1e-5]}}}\n"
    )
    study = load_study(path)
    assert study.cohort.table == tmp_path / "data" / "cohort.csv"
    assert study.training.learning_rate == 1e-4
    assert study.space.sample["training.learning_rate"].choices == (1e-3, 1e-5)


@pytest.mark.parametrize("text", ["", "- a\n", "a: [\n", "name: a\nname: b\n", "\x00", "[" * 5000])
def test_a_file_that_is_not_a_study_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(RlvoError, match=r"study\.yaml"):
        load_study(path)
