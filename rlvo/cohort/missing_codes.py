"""Values that may stand for a missing one: they recur at a column's end, apart from all its other values."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from rlvo.cohort.variables import PERFUSION_VOLUMES, VARIABLES, Variable
from rlvo.errors import Finding

CODE = re.compile(r"7{2,}|8{2,}|9{2,}|9+[678]|(\d)\1{2,}")
"""Numbers that are often written for a missing value: 77, 99, 97, 888, 998, 111."""
MIN_OTHERS = 5
"""Number of other values that show where a column ends."""
MIN_GAP, WIDE_GAP = 0.1, 0.4
"""How far a code lies beyond all other values, as a part of its own size: wide for two digits among whole numbers."""
MIN_TIMES = 3
"""How often a value that is no usual code must occur. It must also be twice any other, and farther than they spread."""
MARKED = re.compile(r"\+.*")
"""A number written with a plus sign was measured: its writer says so."""


def missing_codes(
    text: pd.DataFrame, typed: pd.DataFrame, variables: Mapping[str, Variable] = VARIABLES
) -> Iterator[Finding]:
    """Find values that recur beyond the others of their column; percentages and points are left out, whose ends recur.

    Args:
        text: the cells as text; index: patient id.
        typed: the same cells, typed.
    """
    for column in map(str, typed):
        if variables[column].kind != "continuous" or variables[column].unit in ("points", "%"):
            continue
        values = typed[column].mask(text[column].str.fullmatch(MARKED).fillna(False).astype(bool)).astype("float64")
        for code, nearest in _codes(values, typed, variables[column]):
            patients = [str(patient) for patient in values.index[values == code]]
            shown = ", ".join(patients[:3]) + (f" and {len(patients) - 3} more" if len(patients) > 3 else "")
            what = (
                f"{code:g} may stand for a missing value: it lies apart from all other values, of which {nearest:g} "
                f"is the closest (patient {shown})"
            )
            fix = f"Leave the cell empty if it does; if it was measured, write +{code:g}, as text"
            yield Finding(None, column, what, fix, f"{code:g}", variables[column].allowed)


def _codes(values: pd.Series, typed: pd.DataFrame, variable: Variable) -> Iterator[tuple[float, float]]:
    """Yield the values in question and, for each, the other value that is closest."""
    counts: Any = values.value_counts().sort_index()
    distinct, times = counts.index.to_numpy(), counts.to_numpy()
    if times.sum() < MIN_OTHERS + 1 or len(distinct) < 2:
        return
    first = len(distinct)
    while first and CODE.fullmatch(f"{distinct[first - 1]:g}"):
        first -= 1
    codes, others = distinct[first:], distinct[:first]
    last, nearest, lowest = distinct[-1], distinct[-2], distinct[0]
    if len(codes) and times[:first].sum() >= MIN_OTHERS and _are_apart(codes, others, int(times[first:].sum())):
        if times[first:].max() > 1 or (len(codes) > 1 and codes[0] > 100) or _in_other_volumes(values, codes, typed):
            yield from ((code, others[-1]) for code in codes)
    elif times[-1] >= MIN_TIMES and times[:-1].sum() >= MIN_OTHERS and last - nearest > max(nearest - lowest, nearest):
        yield last, nearest
    if variable.unit == "years" and lowest == 0 and times[0] > 1 and distinct[1] >= 10:
        yield lowest, distinct[1]


def _are_apart(codes: np.ndarray, others: np.ndarray, times: int) -> bool:
    gap = (codes[0] - others[-1]) / codes[0]
    is_unusual = codes[0] > 100 or times >= MIN_TIMES or bool(np.mod(others, 1).any())
    return bool(gap >= (MIN_GAP if is_unusual else WIDE_GAP))


def _in_other_volumes(values: pd.Series, codes: np.ndarray, typed: pd.DataFrame) -> bool:
    """Whether a patient has a code in two perfusion volumes, which measurements hardly make equal."""
    names = [name for name in PERFUSION_VOLUMES if name in typed]
    coded = values.isin(codes).to_numpy()
    equal = typed[names].to_numpy()[coded] == values.to_numpy()[coded][:, None]
    return values.name in names and bool((equal.sum(axis=1) > 1).any())
