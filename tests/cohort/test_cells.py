from pathlib import Path

import pandas as pd
import pytest
from support.malformed import CELLS, check_refused

from rlvo.cohort.cells import typed_column
from rlvo.cohort.variables import VARIABLES


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_that_does_not_fit_its_column_is_refused(name: str, tmp_path: Path) -> None:
    check_refused(CELLS[name], tmp_path)


@pytest.mark.parametrize(("decimal_comma", "expected", "refused"), [(True, 70.5, 0), (False, None, 1)])
def test_decimal_commas_are_numbers_if_the_comma_is_free(
    decimal_comma: bool, expected: float | None, refused: int
) -> None:
    text = pd.Series(["70,5", None, "7e1"], index=["a", "b", "c"], dtype="str")
    values, findings = typed_column(text, VARIABLES["age"], decimal_comma)
    assert [None if pd.isna(value) else value for value in values] == [expected, None, 70]
    assert [finding.patient for finding in findings] == ["a"] * refused
