from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from rlvo.cohort.reading import examine_table


def asked(name: str, cells: Sequence[object], **others: Sequence[object]) -> list[str]:
    """The values of a column that are asked about."""
    ids = [f"p{row}" for row in range(len(cells))]
    _, findings = examine_table(pd.DataFrame({"patient_id": ids, name: cells, **others}, dtype=object))
    assert {finding.field for finding in findings if "may stand" in finding.what} <= {name, *others}
    return [str(finding.value) for finding in findings if finding.field == name and "may stand" in finding.what]


@pytest.mark.parametrize(
    ("name", "codes", "others"),
    [
        ("tmax_gt6_ml", [888, 888], range(20, 200)),
        ("tmax_gt6_ml", ["998.0"] * 3, range(20, 200)),
        ("cbf_lt30_ml", [99, 99], range(40)),
        ("cbf_lt30_ml", [99, 99], np.arange(10, 85, 0.5)),
        ("tmax_gt6_ml", [777, 777, 888], range(20, 200)),
        ("tmax_gt6_ml", [500, 500, 500], range(20, 200)),
        ("age", [99, 99, 99], range(40, 88)),
        ("age", [0, 0], range(40, 88)),
    ],
)
def test_a_value_that_recurs_apart_from_the_others_is_asked_about(
    name: str, codes: list[object], others: Sequence[object]
) -> None:
    assert asked(name, [*codes, *others]) == sorted({f"{float(str(code)):g}" for code in codes})


def test_a_patients_equal_volumes_are_asked_about() -> None:
    cells = [888, *range(20, 200)]
    assert asked("tmax_gt6_ml", cells) == []
    assert asked("tmax_gt6_ml", cells, tmax_gt10_ml=cells) == ["888"]


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("tmax_gt6_ml", [99, 99, *range(20, 200)]),
        ("tmax_gt6_ml", [888, *range(20, 200)]),
        ("tmax_gt6_ml", [900.5, 900.5, *range(20, 200)]),
        ("tmax_gt6_ml", [888, 888, *range(20, 880, 10)]),
        ("tmax_gt6_ml", ["+888", "+888", *range(20, 200)]),
        ("cbf_lt30_ml", [0] * 30 + [12, 13.5, 40, 77]),
        ("cbf_lt30_ml", [88, 88, *range(0, 75)]),
        ("age", [99, 99, *range(40, 97)]),
        ("nihss", [42, 42, 42, *range(20)]),
        ("aspects", [9, 9, 9, *[5] * 6]),
        ("final_stenosis_pct", [100, 100, 100, *[0] * 20]),
        ("tmax_gt6_ml", [888, 888]),
        ("tmax_gt6_ml", [None, None]),
    ],
)
def test_natural_values_are_not(name: str, cells: list[object]) -> None:
    assert asked(name, cells) == []


def test_skewed_volumes_with_single_outliers_are_not() -> None:
    random = np.random.default_rng(0)
    for decimals in (0, 1, 2) * 5:
        volumes = random.lognormal(4, 0.9, 200).clip(0, 1900).round(decimals)
        assert asked("tmax_gt6_ml", list(volumes)) == []
