from collections.abc import Sequence

import pandas as pd
import pytest

from rlvo.cohort.numerals import ambiguous_separators, mixed_decimals
from rlvo.cohort.reading import examine_table


def table(cells: Sequence[object], **others: Sequence[object]) -> pd.DataFrame:
    ids = [f"p{row}" for row in range(len(cells))]
    return pd.DataFrame({"patient_id": ids, "tmax_gt6_ml": cells, **others}, dtype=object)


@pytest.mark.parametrize(
    ("cells", "decimal_comma"),
    [
        (["1.050", "12", "85"], True),
        (["1.050", "12,5", "85"], True),
        (["1.050", "12.5", "85.2"], True),
        (["1,234", "12", "85"], True),
        (["1,234", 12, 85], True),
        (["1.234", "1100"], False),
        (["1.050", "12", "85"], False),
    ],
)
def test_both_readings_of_an_ambiguous_number_are_shown(cells: list[object], decimal_comma: bool) -> None:
    (finding,) = ambiguous_separators(table(cells), decimal_comma)
    cell = str(cells[0])
    assert (finding.field, finding.value) == ("tmax_gt6_ml", cell)
    assert f"'{cell}' of patient p0: 1{cell[2:]} or 1.{cell[2:]}" in finding.what


@pytest.mark.parametrize(
    ("cells", "decimal_comma"),
    [
        (["1.050", "0.512", "12.345"], True),
        (["1.050", "12.5", "85.2"], False),
        (["1,050", "12,345", "0,1"], True),
        (["12.345", "5.678", "12"], True),
        (["1.05", "12.5", "85"], True),
        ([1.05, 12, 85], True),
        (["0", "1.234"], False),
    ],
)
def test_decimals_that_can_be_nothing_else_are_not_ambiguous(cells: list[object], decimal_comma: bool) -> None:
    assert not list(ambiguous_separators(table(cells), decimal_comma))


def test_text_with_a_decimal_comma_among_numbers_is_named() -> None:
    _, findings = examine_table(table([70.5, "12,5"], age=[70, 71]), decimal_comma=True)
    assert [(finding.patient, finding.field, finding.value) for finding in findings] == [("p1", "tmax_gt6_ml", "12,5")]
    _, findings = examine_table(table(["70", "12,5"], age=[70, 71]), decimal_comma=True)
    assert not findings


def test_commas_and_points_are_named_with_their_patients() -> None:
    cells = table(["70.5", "12,5"])
    (finding,) = mixed_decimals(cells.set_index("patient_id").astype("str"), cells)
    assert "patient p1, tmax_gt6_ml, and patient p0, tmax_gt6_ml" in finding.what
