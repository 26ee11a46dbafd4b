import json
from typing import Any

import pytest
from pydantic import ValidationError

from rlvo.config.loading import parse_study
from rlvo.config.predictors import PAPER_PREDICTORS, OwnPredictor
from rlvo.config.study import StudyConfig
from rlvo.errors import RlvoError

SIPHON = {"name": "siphon", "kind": "continuous", "unit": "mm3", "range": [0, 2000]}
COLLATERALS = {"name": "collaterals", "kind": "ordinal", "levels": ["none", "poor", "good"]}


def study(*predictors: object) -> StudyConfig:
    return parse_study({"name": "own", "cohort": {"predictors": ["occlusion_side", *predictors]}})


def test_names_and_declarations_stand_in_one_list_and_come_back_as_they_were_written() -> None:
    cohort = study("age", SIPHON, "nihss", COLLATERALS).cohort
    assert cohort.names == ("occlusion_side", "age", "siphon", "nihss", "collaterals")
    assert [each.name for each in cohort.own] == ["siphon", "collaterals"]
    assert json.loads(cohort.model_dump_json())["predictors"] == ["occlusion_side", "age", SIPHON, "nihss", COLLATERALS]
    assert type(cohort).model_validate_json(cohort.model_dump_json()) == cohort


def test_a_study_with_the_papers_names_is_written_as_before() -> None:
    assert json.loads(StudyConfig(name="old").model_dump_json())["cohort"] == {
        "table": None,
        "predictors": list(PAPER_PREDICTORS),
        "missing_flags": False,
        "scaling": None,
        "imputation": None,
    }


def test_levels_are_read_as_they_are_written() -> None:
    assert OwnPredictor.model_validate({**COLLATERALS, "levels": [0, 1, 2.5]}).levels == ("0", "1", "2.5")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"range": None}, "siphon: give its range"),
        ({"range": [5, 5]}, "siphon: give its range"),
        ({"range": [0, float("inf")]}, "finite number"),
        ({"range": [False, 5]}, "not true or false"),
        ({"levels": ["a", "b"]}, "has a range, not levels"),
        ({"kind": "binary"}, "only a continuous predictor has a unit and a range"),
        ({"kind": "ordinal", "unit": None, "range": None}, "give two or more levels"),
        ({"kind": "binary", "unit": None, "range": None, "levels": ["a", "b", "c"]}, "give two levels"),
        ({"kind": "categorical", "unit": None, "range": None, "levels": ["a", "A"]}, "the same but for capitals"),
        ({"kind": "categorical", "unit": None, "range": None, "levels": ["a", " b"]}, "begins or ends with a blank"),
        ({"kind": "ordinal", "unit": None, "range": None, "levels": [True, False]}, "in quotes"),
        ({"name": "Siphon volume"}, "should match pattern"),
        ({"kind": "number"}, "'continuous', 'binary', 'ordinal' or 'categorical'"),
    ],
)
def test_a_declaration_that_does_not_say_what_a_cell_may_hold_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        OwnPredictor.model_validate(SIPHON | changes)


def test_a_mistake_is_told_by_its_place() -> None:
    with pytest.raises(RlvoError, match=r"^unknown key 'cohort.predictors.1.levls'; did you mean 'levels'\?$"):
        study({"name": "siphon", "kind": "binary", "levls": [1, 2]})
    with pytest.raises(RlvoError, match=r"cohort.predictors.1: siphon: give its range"):
        study({"name": "siphon", "kind": "continuous"})
    with pytest.raises(RlvoError, match=r"^cohort.predictors.1: Input should be a valid string \(got 5\)$"):
        study(5)
