"""What tables and pictures call the variables."""

from __future__ import annotations

from rlvo.cohort.variables import VARIABLES

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
"""Before a level, where it is not the name."""
LEVELS = {"F": "female", "M": "male"}


def variable_label(name: str) -> str:
    """A variable as readers know it, with its unit: `tmax_gt4_ml` is "Tmax > 4 s, mL"."""
    unit = VARIABLES[name].unit if name in VARIABLES else None
    label = NAMES.get(name, name)
    return label if unit in (None, "points") else f"{label}, {unit}"


def level_label(name: str, level: str) -> str:
    """A level of a variable: `sex`, `F` is "Sex, female"."""
    return f"{STEMS.get(name) or NAMES.get(name, name)}, {LEVELS.get(level, level)}"


def term_label(term: str, unit: str) -> str:
    """A term of a logistic fit and what its odds ratio compares: `sex=F`, "vs M" is "Sex, female vs male"."""
    name, has_level, level = term.partition("=")
    against, _, what = unit.partition(" ")
    if has_level:
        return f"{level_label(name, level)} vs {LEVELS.get(what, what)}"
    return NAMES.get(name, name) if (against, what) == ("vs", "no") else f"{NAMES.get(name, name)}, {unit}"
