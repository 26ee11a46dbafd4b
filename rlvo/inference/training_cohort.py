"""A summary of the training patients that travels with the model, and how other patients differ. Names no patient."""

import operator
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from rlvo.cohort.labels import format_number, format_quantity, share_label, variable_name
from rlvo.cohort.variables import RATIOS, VARIABLES, Variable, known_variables, predictor_kind, source_columns
from rlvo.config.base import Frozen
from rlvo.config.predictors import OwnPredictor

MIN_SHIFT = 0.5
"""The smallest standardised difference that is reported: a medium effect (Cohen 1988)."""
SYNTHETIC = "the model was trained on SYNTHETIC patients: its answers say nothing about real ones"
"""What every answer, card and page of such a model says."""
MIN_STANDARD_ERRORS = 3.0
"""The difference must also be this many standard errors, so that a handful of similar patients raises no alarm."""
PERCENTILES = (5, 10, 25, 50, 75, 90, 95)


class ContinuousSummary(Frozen):
    """A continuous predictor, over the patients in whom it was measured."""

    mean: float
    sd: float
    percentiles: tuple[float, ...] = ()
    """At PERCENTILES; empty in models registered before they were kept."""

    def in_words(self, name: str, variables: Mapping[str, Variable] = VARIABLES) -> str:
        """Mean and SD of the predictor of this name: "207 mL (SD 120)"."""
        return f"{format_quantity(name, self.mean, variables)} (SD {format_number(name, self.sd)})"

    def between(self, value: float) -> tuple[int, int] | None:
        """The nearest percentiles that are certainly lower and higher, or 0 and 100; None if they are not known."""
        if not self.percentiles:
            return None
        known = list(zip(PERCENTILES, self.percentiles, strict=True))
        lower = max((percentile for percentile, at in known if at < value), default=0)
        return lower, min((percentile for percentile, at in known if at > value), default=100)


class CohortSummary(Frozen):
    """The development patients in numbers."""

    patients: int
    prevalence: float
    """Share with rLVO."""
    continuous: dict[str, ContinuousSummary]
    shares: dict[str, dict[str, float]]
    """For each binary or categorical predictor: each level ("1" for yes), and its share where it was recorded."""
    missing: dict[str, float]
    """Share of patients without each predictor; a derived one is missing if one of its inputs is."""
    synthetic: bool = False
    """Whether any of them was drawn by `rlvo synth`."""
    own: Annotated[tuple[OwnPredictor, ...], Field(exclude_if=operator.not_)] = ()
    """The declarations of predictors that rlvo does not know."""

    @property
    def variables(self) -> Mapping[str, Variable]:
        """What is known of the table's columns."""
        return known_variables(self.own)

    def known(self, predictor: str) -> int:
        """In how many patients it was recorded."""
        return round(self.patients * (1 - self.missing.get(predictor, 0.0)))

    def same(self, predictor: str, value: float | str) -> int | None:
        """How many patients have this value of a binary or categorical predictor; None if that is not known."""
        shares = self.shares.get(predictor)
        if not shares:
            return None
        level = value if isinstance(value, str) else f"{value:g}"
        share = shares.get(level, 1 - sum(shares.values()))  # of two levels, only one has its share written
        return round(share * self.known(predictor))


def summarise(
    table: pd.DataFrame,
    label: Sequence[int] | pd.Series,
    predictors: Sequence[str],
    own: Sequence[OwnPredictor] = (),
    *,
    synthetic: bool = False,
) -> CohortSummary:
    """Summarise the typed table of the development patients and their labels, 0 or 1."""
    variables = known_variables(own)
    kinds = {predictor: predictor_kind(predictor, variables) for predictor in predictors}
    values = {predictor: predictor_values(table, predictor) for predictor in predictors}
    continuous = {
        name: ContinuousSummary(
            mean=float(each.mean()),
            sd=float(each.std()),
            percentiles=tuple(np.percentile(each.dropna().to_numpy(float), PERCENTILES).tolist()),
        )
        for name, each in values.items()
        if kinds[name] == "continuous" and each.count() > 1
    }
    return CohortSummary(
        patients=len(table),
        prevalence=float(np.mean(label)),
        continuous=continuous,
        shares={n: _shares(each, variables[n].levels) for n, each in values.items() if kinds[n] != "continuous"},
        missing={name: float(each.isna().mean()) for name, each in values.items()},
        synthetic=synthetic,
        own=tuple(own),
    )


def shift_warnings(summary: CohortSummary, table: pd.DataFrame) -> list[str]:
    """How the patients of a typed table differ from the training patients: one line per difference, mostly none.

    Means are compared by their difference in SDs, shares by Cohen's h. A warning means that answers may be less
    reliable than in training; no warning is no guarantee.
    """
    warnings, variables = [], summary.variables
    for name, missing in summary.missing.items():
        values, called = predictor_values(table, name), variable_name(name)
        measured, trained_on = values.dropna(), round(summary.patients * (1 - missing))
        missing_here = float(values.isna().mean())
        if missing_here > missing and _has_shifted(
            _cohens_h(missing_here, len(values), missing), len(values), summary.patients
        ):
            warnings.append(f"{called}: missing in {missing_here:.0%} of these patients, {missing:.0%} in training")
        if (trained := summary.continuous.get(name)) is not None and trained.sd > 0 and len(measured):
            mean = float(measured.mean())
            if _has_shifted((mean - trained.mean) / trained.sd, len(measured), trained_on):
                here = f"mean {format_quantity(name, mean, variables)} in these patients"
                warnings.append(f"{called}: {here}, {trained.in_words(name, variables)} in training")
        for level, share in summary.shares.get(name, {}).items():
            of_these = _shares(measured, variables[name].levels).get(level, 0.0)
            if len(measured) and _has_shifted(_cohens_h(of_these, len(measured), share), len(measured), trained_on):
                label = share_label(name, level)
                warnings.append(f"{label}: {of_these:.0%} of these patients, {share:.0%} in training")
    return warnings


def predictor_values(table: pd.DataFrame, predictor: str) -> pd.Series:
    """A predictor of a typed table's patients; a derived one is missing if an input is, or its denominator is 0."""
    columns = table.reindex(columns=list(source_columns([predictor])))
    if predictor not in RATIOS:
        return columns[predictor]
    numerator, denominator = (columns[name].astype(float) for name in RATIOS[predictor])
    return (numerator / denominator).where(denominator > 0)


def _shares(values: pd.Series, levels: Sequence[str]) -> dict[str, float]:
    """Share of each level; of two levels, only the second one's."""
    recorded = values.dropna()
    if recorded.empty:
        return {}
    if not levels:
        return {"1": float((recorded == 1).mean())}
    return {level: float((recorded == level).mean()) for level in (levels[1:] if len(levels) == 2 else levels)}


def _cohens_h(share: float, patients: int, other: float) -> float:
    """Cohen's h; the share of few patients is corrected (Anscombe 1948): 0 of 5 does not mean none at all."""
    share = (share * patients + 0.375) / (patients + 0.75)
    return float(2 * np.arcsin(np.sqrt(share)) - 2 * np.arcsin(np.sqrt(other)))


def _has_shifted(difference: float, patients: int, trained_on: int) -> bool:
    """Whether a standardised difference is large and certain; both kinds have a variance of about 1/n + 1/N."""
    error = np.sqrt(1 / max(patients, 1) + 1 / max(trained_on, 1))
    return bool(abs(difference) > max(MIN_SHIFT, MIN_STANDARD_ERRORS * error))
