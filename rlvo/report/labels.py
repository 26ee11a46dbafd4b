"""Names of the variables in tables and pictures."""

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
