"""The schema and the page say what the models say, and the committed files are what the models give now."""

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from ruamel.yaml import YAML

from rlvo.config.base import by_path
from rlvo.config.loading import load_study
from rlvo.config.reference import SCHEMA_FILE, SCHEMA_LINE, reference_page, schema_text, study_schema
from rlvo.config.study import StudyConfig

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "tune_configs").glob("*.yaml"))
VALIDATOR = Draft202012Validator(study_schema())


def read(path: Path) -> dict[str, Any]:
    return dict(YAML(typ="safe", pure=True).load(path.read_text()))


def test_the_committed_schema_and_page_are_up_to_date() -> None:
    assert (ROOT / "tune_configs" / SCHEMA_FILE).read_text() == schema_text(), "rlvo schema -o tune_configs/…"
    assert (ROOT / "docs" / "configuration.md").read_text() == reference_page(), "rlvo schema -o docs/configuration.md"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_shipped_study_names_its_schema_and_meets_it(path: Path) -> None:
    assert path.read_text().splitlines()[0] == SCHEMA_LINE
    VALIDATOR.validate(read(path))


@pytest.mark.parametrize(
    "wrong",
    [
        {"nome": "x"},
        {"grid": "papre"},
        {"training": {"epochs": 0}},
        {"cohort": {"predictors": ["agee"]}},
        {"space": {"enumerate": {"model.modalty": ["NCCT"]}}},
        {"space": {"sample": {"training.learning_rate": {"low": 1e-5}}}},
        {"folds": {"holdout": "centre"}},
    ],
    ids=str,
)
def test_what_a_study_cannot_be_the_schema_refuses(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VALIDATOR.validate({"name": "x", **wrong})


@pytest.mark.parametrize("grid", ["focus", {"shape": [8, 8, 8], "spacing": [4, 4, 4], "origin": [0, 0, 0.5]}], ids=str)
def test_a_grid_is_a_preset_or_its_numbers(grid: object) -> None:
    VALIDATOR.validate({"name": "x", "grid": grid})


def test_every_field_is_described() -> None:
    def undescribed(model: dict[str, Any], path: str) -> list[str]:
        return [f"{path}.{name}" for name, field in model.get("properties", {}).items() if not field.get("description")]

    schema = study_schema()
    lacking = [each for name, model in schema["$defs"].items() for each in undescribed(model, name)]
    assert lacking + undescribed(schema, "StudyConfig") == []


def test_every_field_has_a_row_on_the_page() -> None:
    page = reference_page()
    paths = {*by_path(StudyConfig(name="x").model_dump()), "search.storage", "folds.of_study", "space.points"}
    assert len(paths) > 70
    assert [path for path in sorted(paths) if f"| `{path}` |" not in page] == []


def test_a_study_with_renamed_columns_reads_back_and_one_without_is_written_as_before(tmp_path: Path) -> None:
    (file := tmp_path / "study.yaml").write_text("name: x\ncohort: {columns: {age: Edad}}\n")
    renamed, plain = load_study(file), StudyConfig(name="x")
    assert renamed.cohort.columns == {"age": "Edad"}
    assert StudyConfig.model_validate_json(renamed.model_dump_json()) == renamed
    assert "columns" not in plain.model_dump(mode="json")["cohort"]
