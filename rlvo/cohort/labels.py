"""The variables in a clinician's terms: names, levels, values with their units."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from rlvo.cohort.variables import VARIABLES
from rlvo.digits import tell_apart

NAMES = {
    "age": "Age",
    "sex": "Sex",
    "hypertension": "Hypertension",
    "dyslipidemia": "Dyslipidemia",
    "diabetes": "Diabetes mellitus",
    "smoking": "Smoking",
    "atrial_fibrillation": "Atrial fibrillation",
    "nihss": "NIHSS",
    "ivt": "IV thrombolysis",
    "unwitnessed_onset": "Unwitnessed onset",
    "occlusion_side": "Occlusion side",
    "occlusion_site": "Occlusion site",
    "cbf_lt30_ml": "CBF < 30 %",
    "tmax_gt4_ml": "Tmax > 4 s",
    "tmax_gt6_ml": "Tmax > 6 s",
    "tmax_gt10_ml": "Tmax > 10 s",
    "hir": "HIR",
    "tmax4_tmax6_ratio": "Tmax > 4 s / > 6 s",
    "aspects": "ASPECTS",
}
STEMS = {"occlusion_side": "Occlusion", "occlusion_site": "Occlusion"}
"""What precedes a level if it is not the variable's name."""
LEVELS = {"F": "female", "M": "male"}


def variable_label(name: str) -> str:
    """A variable's name with its unit: "Tmax > 4 s, mL" for `tmax_gt4_ml`."""
    unit = VARIABLES[name].unit if name in VARIABLES else None
    label = NAMES.get(name, name)
    return label if unit in (None, "points") else f"{label}, {unit}"


def level_label(name: str, level: str) -> str:
    """The name of a variable's level: "Sex, female" for `sex`, `F`."""
    return f"{STEMS.get(name) or NAMES.get(name, name)}, {LEVELS.get(level, level)}"


def term_label(term: str, unit: str) -> str:
    """The name of a logistic term and of what its odds ratio compares: "Sex, female vs male" for `sex=F`, "vs M"."""
    name, has_level, level = term.partition("=")
    against, _, what = unit.partition(" ")
    if has_level:
        return f"{level_label(name, level)} vs {LEVELS.get(what, what)}"
    return NAMES.get(name, name) if (against, what) == ("vs", "no") else f"{NAMES.get(name, name)}, {unit}"


def share_label(name: str, level: str) -> str:
    """What a share of patients is of: "Smoking" for `smoking`, `1`; "Sex, female" for `sex`, `F`."""
    return NAMES.get(name, name) if level == "1" else level_label(name, level)


def names_in_words(names: Iterable[str]) -> str:
    """Variables' names in a row: "NIHSS, Tmax > 4 s"."""
    return ", ".join(NAMES.get(name, name) for name in names)


def format_value(name: str, value: Any) -> str:
    """A variable's value in words, without its unit: "71", "female", "yes", "missing"."""
    if value is None or pd.isna(value):
        return "missing"
    if isinstance(value, str):
        return LEVELS.get(value, value)
    if name in VARIABLES and VARIABLES[name].kind == "binary":
        return "yes" if value else "no"
    return format_number(name, value)


def format_numbers(name: str, *values: float) -> tuple[str, ...]:
    """As `format_number`, with more digits if different values would look the same: "207.04" beside "207.03"."""
    return tell_apart(lambda value, more: format_number(name, value, more), *values)


def format_number(name: str, value: float, more: int = 0) -> str:
    """At most three digits, but all before the point, and one after it if the variable has a unit: "207", "9.5".

    Args:
        more: digits to add after the point.
    """
    has_unit = name in VARIABLES and VARIABLES[name].unit is not None
    before = math.floor(math.log10(abs(value))) + 1 if value else 1
    text = f"{value:z.{min(max(3 - before, 0), 1 if has_unit else 3) + more}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_quantity(name: str, value: float) -> str:
    """A number with its unit: "207 mL", "70.1 years"; scores and ratios have none."""
    return with_unit(name, format_number(name, value))


def with_unit(name: str, number: str) -> str:
    """A number with the variable's unit, if it has one."""
    unit = VARIABLES[name].unit if name in VARIABLES else None
    return number if unit in (None, "points") else f"{number} {unit}"
