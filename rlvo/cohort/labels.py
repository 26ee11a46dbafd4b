"""The variables in a clinician's terms: names, levels, values with their units."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from rlvo.cohort.variables import VARIABLES, Variable
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


def variable_name(name: str) -> str:
    """A variable's name: "NIHSS" for `nihss`, "Siphon calcification" for a study's own `siphon_calcification`."""
    return NAMES.get(name) or (name[:1].upper() + name[1:]).replace("_", " ")


def variable_label(name: str, variables: Mapping[str, Variable] = VARIABLES) -> str:
    """A variable's name with its unit: "Tmax > 4 s, mL" for `tmax_gt4_ml`."""
    unit, label = _unit(name, variables), variable_name(name)
    return label if unit in (None, "points") else f"{label}, {unit}"


def level_label(name: str, level: str) -> str:
    """The name of a variable's level: "Sex, female" for `sex`, `F`."""
    return f"{STEMS.get(name) or variable_name(name)}, {LEVELS.get(level, level)}"


def term_label(term: str, unit: str) -> str:
    """The name of a logistic term and of what its odds ratio compares: "Sex, female vs male" for `sex=F`, "vs M"."""
    name, has_level, level = term.partition("=")
    against, _, what = unit.partition(" ")
    if has_level:
        return f"{level_label(name, level)} vs {LEVELS.get(what, what)}"
    return variable_name(name) if (against, what) == ("vs", "no") else f"{variable_name(name)}, {unit}"


def share_label(name: str, level: str) -> str:
    """What a share of patients is of: "Smoking" for `smoking`, `1`; "Sex, female" for `sex`, `F`."""
    return variable_name(name) if level == "1" else level_label(name, level)


def names_in_words(names: Iterable[str]) -> str:
    """Variables' names in a row: "NIHSS, Tmax > 4 s"."""
    return ", ".join(map(variable_name, names))


def format_value(name: str, value: Any, variables: Mapping[str, Variable] = VARIABLES) -> str:
    """A variable's value in words, without its unit: "71", "female", "yes", "missing"."""
    if value is None or pd.isna(value):
        return "missing"
    if isinstance(value, str):
        return LEVELS.get(value, value)
    if name in variables and variables[name].kind == "binary":
        return "yes" if value else "no"
    return format_number(name, value)


def format_numbers(name: str, *values: float) -> tuple[str, ...]:
    """As `format_number`, with more digits if different values would look the same: "207.04" beside "207.03"."""
    return tell_apart(lambda value, more: format_number(name, value, more), *values)


def format_number(name: str, value: float, more: int = 0) -> str:
    """At most three digits, but all before the point, and one after it if rlvo knows the unit: "207", "9.5".

    Args:
        more: digits to add after the point.
    """
    has_unit = name in VARIABLES and VARIABLES[name].unit is not None
    before = math.floor(math.log10(abs(value))) + 1 if value else 1
    text = f"{value:z.{min(max(3 - before, 0), 1 if has_unit else 3) + more}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_quantity(name: str, value: float, variables: Mapping[str, Variable] = VARIABLES) -> str:
    """A number with its unit: "207 mL", "70.1 years"; scores and ratios have none."""
    return with_unit(name, format_number(name, value), variables)


def with_unit(name: str, number: str, variables: Mapping[str, Variable] = VARIABLES) -> str:
    """A number with the variable's unit, if it has one."""
    unit = _unit(name, variables)
    return number if unit in (None, "points") else f"{number} {unit}"


def _unit(name: str, variables: Mapping[str, Variable]) -> str | None:
    return variables[name].unit if name in variables else None
