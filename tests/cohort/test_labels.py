"""Values are written as a clinician reads them: three digits at most, with the unit, never in scientific notation."""

import re

import pytest

from rlvo.cohort.labels import (
    NAMES,
    format_number,
    format_numbers,
    format_quantity,
    format_value,
    names_in_words,
    share_label,
)
from rlvo.cohort.variables import VARIABLES, known_after_procedure


def test_numbers_are_short() -> None:
    assert [format_value("hir", value) for value in (0.39293, 34.225, 422.3, 1999.6)] == [
        "0.393",
        "34.2",
        "422",
        "2000",
    ]
    assert [format_number("nihss", value) for value in (0.0, 7.18, 14.96, 42.0)] == ["0", "7.2", "15", "42"]


@pytest.mark.parametrize("name", [name for name, each in VARIABLES.items() if each.kind == "continuous"])
def test_no_number_is_scientific_and_each_is_within_its_last_digit(name: str) -> None:
    for value in (0.00001, 0.04, 0.5, 1.26, 9.97, 99.97, 118.6, 1234.4, 1999.6):
        text = format_number(name, value)
        assert re.fullmatch(r"\d+(\.\d)?", text)
        assert float(text) == pytest.approx(value, abs=0.5 if value >= 99.9 else 0.05)


def test_a_value_does_not_look_like_the_bound_that_it_exceeds() -> None:
    assert format_numbers("tmax_gt4_ml", 207.04, 3.0, 207.01) == ("207.04", "3", "207.01")
    assert format_numbers("tmax_gt4_ml", 407.0, 3.0, 207.01) == ("407", "3", "207")


def test_values_have_their_unit() -> None:
    assert format_quantity("tmax_gt4_ml", 206.6) == "207 mL"
    assert format_quantity("age", 70.12) == "70.1 years"
    assert format_quantity("nihss", 15.0) == "15"
    assert format_quantity("hir", 0.431) == "0.431"


def test_every_predictor_has_a_name_that_is_no_column() -> None:
    predictors = [name for name, each in VARIABLES.items() if each.role in ("predictor", "score")]
    assert all("_" not in names_in_words([name]) and not known_after_procedure(name) for name in predictors)
    assert set(predictors) <= set(NAMES)
    assert (share_label("smoking", "1"), share_label("sex", "F")) == ("Smoking", "Sex, female")
