"""The columns of a cohort table: names, units, allowed values, and what each may be used for."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rlvo.config.predictors import OwnPredictor
from rlvo.errors import RlvoError


@dataclass(frozen=True)
class Variable:
    """A column of the cohort table.

    `low` and `high` are the inclusive bounds of a continuous variable, in `unit`. `levels` are the values of a
    categorical variable, the reference level of logistic fits first; for an ordinal one they ascend; for a binary one
    (sex) the second counts as 1.
    """

    name: str
    kind: Literal["continuous", "binary", "ordinal", "categorical", "date", "text"]
    role: Literal["id", "image", "predictor", "score", "outcome", "context"]
    unit: str | None = None
    low: float = -math.inf
    high: float = math.inf
    levels: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """A description of what a cell may hold."""
        if self.kind == "continuous":
            whole = "whole " if self.unit == "points" else ""
            return f"{self.low:g} to {self.high:g} {whole}{self.unit or ''}".rstrip()
        if self.kind == "date":
            return "a date as YYYY-MM-DD, not before 1990 and not in the future"
        if self.kind == "text":
            return "a name, or nothing if it is unknown"
        return ", ".join(self.levels) or "0 or 1"


MAX_VOLUME_ML = 2000.0
"""No brain is larger: a value above it is in another unit."""
VOLUMES = ("ncct", "cta", "vessels")
"""The columns that name a patient's scans and the vessel mask, and the names of the prepared volumes."""
TMAX_VOLUMES = ("tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml")
"""Volumes above growing delays: each lies within the one before."""
PERFUSION_VOLUMES = ("cbf_lt30_ml", *TMAX_VOLUMES)
RISK_FACTORS = ("hypertension", "dyslipidemia", "diabetes", "smoking", "atrial_fibrillation")

VARIABLES: dict[str, Variable] = {
    variable.name: variable
    for variable in (
        Variable("patient_id", "text", "id"),
        *(Variable(name, "text", "image") for name in VOLUMES),
        Variable("age", "continuous", "predictor", "years", 0, 120),
        Variable("sex", "binary", "predictor", levels=("M", "F")),
        *(Variable(name, "binary", "predictor") for name in RISK_FACTORS),
        Variable("nihss", "continuous", "predictor", "points", 0, 42),
        *(Variable(name, "binary", "predictor") for name in ("ivt", "unwitnessed_onset")),
        Variable("occlusion_side", "categorical", "predictor", levels=("left", "right")),
        Variable("occlusion_site", "categorical", "predictor", levels=("TICA", "M1", "M2")),
        *(Variable(name, "continuous", "predictor", "mL", 0, MAX_VOLUME_ML) for name in PERFUSION_VOLUMES),
        Variable("aspects", "continuous", "score", "points", 0, 10),
        Variable("final_stenosis_pct", "continuous", "outcome", "%", 0, 100),
        Variable("etici", "categorical", "outcome", levels=("0", "1", "2a", "2b", "2b50", "2b67", "2c", "3")),
        *(Variable(name, "binary", "outcome") for name in ("rescue_treatment", "rlvo")),
        Variable("etiology", "categorical", "outcome", levels=("icad", "other")),
        *(Variable(name, "text", "context") for name in ("person", "center", "scanner")),
        *(Variable(n, "binary", "context") for n in ("dsa_occlusion", "synchronous_occlusions", "severe_artifact")),
        Variable("admission_date", "date", "context"),
    )
}
"""The columns that rlvo knows, by name."""

RATIOS = {"hir": ("tmax_gt10_ml", "tmax_gt6_ml"), "tmax4_tmax6_ratio": ("tmax_gt4_ml", "tmax_gt6_ml")}
"""The derived predictors: numerator and denominator of each (section 2.2.2)."""
DERIVED = tuple(RATIOS)
"""Predictors that are computed and are never columns of the table."""
CTP = (*PERFUSION_VOLUMES, *DERIVED)
"""The six CT perfusion variables."""
PERFUSION = "CT perfusion"
"""All of them taken as one: they come from one examination, and are missing together."""

AFTER_PROCEDURE = re.compile(
    r"tici|mrs|rankin|recanali[sz]|reperfu|rescue|stenting|angioplast|stenosis|(^|_)pass(es)?(_|$)|groin|punctur"
    r"|final_|infarct|discharge|follow_?up|outcome|mortality|death|died|dead|hemorrhag|haemorrhag|(^|_)s?ich(_|$)"
    r"|(24|48|72)_?h|day_?\d|\d_?d(ays?)?$|month|90_?d"
    r"|rlvo|refractory|a?etiolog|(^|_)(toast|ica[ds])(_|$)|thrombectom|procedur|man(eu|oeu)v|retriever"
)
"""A column with this in its name is known only after the procedure."""
BEFORE_PROCEDURE = re.compile(r"premorbid|pre_?stroke|admission|baseline|previous|history")
"""A column with this in its name is known before the procedure all the same, e.g. `premorbid_mrs`."""


RESERVED = ("label", "group", "patient")
"""Names that tables made from a cohort's give to something else."""


def known_variables(own: Iterable[OwnPredictor] = ()) -> Mapping[str, Variable]:
    """The columns that a table may have, by name: those that rlvo knows, and a study's own predictors."""
    declared = {}
    for each in own:
        low, high = each.range or (-math.inf, math.inf)
        declared[each.name] = Variable(each.name, each.kind, "predictor", each.unit, low, high, each.levels)
    return VARIABLES | declared


def known_after_procedure(name: str) -> bool:
    """Whether a column holds an outcome, judging by its name: `mTICI`, `NIHSS 24h`, `passes`, `final infarct`."""
    if name in VARIABLES:
        return VARIABLES[name].role == "outcome"
    plain = re.sub(r"\W+", "_", name.lower())
    return bool(AFTER_PROCEDURE.search(plain)) and not BEFORE_PROCEDURE.search(plain)


def source_columns(predictors: Iterable[str]) -> tuple[str, ...]:
    """Return the table columns that the predictors are made of, each once, in their order."""
    return tuple(dict.fromkeys(column for name in predictors for column in RATIOS.get(name, (name,))))


def predictor_kind(name: str, variables: Mapping[str, Variable] = VARIABLES) -> str:
    """Return the kind of a column or derived variable; the latter are continuous."""
    return "continuous" if name in DERIVED else variables[name].kind


def check_predictors(names: Sequence[str], own: Sequence[OwnPredictor] = (), *, scores: bool = False) -> None:
    """Refuse predictors that are outcomes, not predictors, unknown or listed twice.

    Args:
        own: the declarations of those that rlvo does not know.
        scores: also allow ASPECTS, which only baselines use.

    Raises:
        RlvoError: names every predictor that is refused, and every declaration of what cannot be declared.
    """
    possible = {name for name, v in VARIABLES.items() if v.role == "predictor" or (scores and v.role == "score")}
    possible.update(DERIVED)
    if refused := [f"{each.name} {why}" for each in own if (why := _why_not_declared(each, possible))]:
        raise RlvoError("; ".join(refused), where="predictors")
    possible.update(each.name for each in own)
    wrong = [f"{name} {_why_not(name, possible)}" for name in dict.fromkeys(names) if name not in possible]
    wrong += [f"{name} is listed twice" for name in dict.fromkeys(names) if name in possible and names.count(name) > 1]
    if wrong:
        raise RlvoError("; ".join(wrong), where="predictors")


def did_you_mean(name: str, possible: Iterable[str]) -> str:
    """Return a hint at the most similar of the possible names, or "" if none is similar."""
    close = difflib.get_close_matches(name, list(possible), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _why_not_declared(own: OwnPredictor, possible: Iterable[str]) -> str | None:
    """Why a declaration cannot be taken; None if it can."""
    if own.name in possible:
        return "is declared, but rlvo knows it: list its name alone"
    if own.name in VARIABLES or known_after_procedure(own.name):
        return _why_not(own.name, possible)
    if own.name in RESERVED:
        return "is a name that rlvo uses itself: declare it under another"
    source = (own.source or "").strip().lower()
    if source in VARIABLES and VARIABLES[source].role != "outcome":
        return f"has as its source a column that rlvo knows: list '{source}' alone"
    if known_after_procedure(source):
        return f"has as its source '{own.source}', known only after the procedure, and cannot be a predictor"
    return None


def _why_not(name: str, possible: Iterable[str]) -> str:
    role = "outcome" if known_after_procedure(name) else VARIABLES[name].role if name in VARIABLES else None
    if role is None:
        return f"is not a variable that rlvo knows{did_you_mean(name, possible) or '; a study can declare it'}"
    return {
        "outcome": "is an outcome, known only after the procedure, and cannot be a predictor",
        "score": "can be used in baselines only",
        "context": "describes how the patient was selected or scanned and cannot be a predictor",
        "image": "is a volume, not a tabular predictor",
        "id": "identifies the patient and cannot be a predictor",
    }[role]
