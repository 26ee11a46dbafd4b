"""Predictors as numbers: imputation, derived variables, 0–1 scaling and one-hots, all fitted on a training fold."""

import operator
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from rlvo.cohort.variables import (
    RATIOS,
    TMAX_VOLUMES,
    Variable,
    check_predictors,
    known_variables,
    predictor_kind,
    source_columns,
)
from rlvo.config.base import Frozen
from rlvo.config.predictors import OwnPredictor
from rlvo.config.sections import CohortConfig
from rlvo.errors import RlvoError

Scaling = Literal["quantile", "min_max"]
Imputation = Literal["ratio", "median"]
QUANTILES = (0.025, 0.975)
"""Values beyond them are clipped if scaling is by quantiles."""


class TabularEncoder(Frozen):
    """What was learned from a training fold about the predictors; plain data, so that it can be stored as JSON.

    A patient's encoding does not depend on the other patients encoded, and nothing is learned from them.
    """

    predictors: tuple[str, ...]
    own: Annotated[tuple[OwnPredictor, ...], Field(exclude_if=operator.not_)] = ()
    """The declarations of those that rlvo does not know."""
    missing_flags: bool = False
    """Append one 0/1 feature per predictor: whether it was missing."""
    fill: dict[str, float | str]
    """Median (continuous, ordinal) or mode of each table column, and the median of `tmax4_tmax6_ratio`."""
    parts: dict[str, float] = Field(default_factory=dict)
    """Median share that each Tmax volume takes of the next larger one. If empty, a missing one is its column's
    median."""
    bounds: dict[str, tuple[float, float]]
    """The measured values of each continuous predictor that become 0 and 1; those beyond are clipped."""
    extremes: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Minimum and maximum of the measured values of each; if empty, they are the bounds."""

    @property
    def variables(self) -> Mapping[str, Variable]:
        """What is known of the table's columns."""
        return known_variables(self.own)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the T features, e.g. `age`, `sex=F`, `occlusion_side=left`, `occlusion_side=right`."""
        variables = self.variables
        names = [name for predictor in self.predictors for name in _feature_names(predictor, variables)]
        if self.missing_flags:
            names += [f"{predictor}=missing" for predictor in self.predictors]
        return tuple(names)

    @property
    def feature_groups(self) -> dict[str, tuple[int, ...]]:
        """Where each predictor's features are among the T: its one-hots together, and its missing flag with them."""
        owners = [name.partition("=")[0] for name in self.feature_names]
        return {p: tuple(i for i, owner in enumerate(owners) if owner == p) for p in self.predictors}

    @property
    def reference_features(self) -> tuple[str, ...]:
        """Names of the one-hots of reference levels, which logistic fits leave out."""
        variables = self.variables
        categorical = [p for p in self.predictors if predictor_kind(p, variables) == "categorical"]
        return tuple(_feature_names(p, variables)[0] for p in categorical)

    def transform(self, table: pd.DataFrame) -> np.ndarray:
        """Return each patient's features, [N, T] float32 within 0–1. An absent column counts as missing."""
        complete = _impute(table, self.predictors, self.fill, self.parts)
        columns, variables = list[np.ndarray](), self.variables
        for predictor in self.predictors:
            if levels := _counted_levels(predictor, variables):
                columns += [(complete[predictor] == level).to_numpy(np.float64) for level in levels]
                continue
            if predictor_kind(predictor, variables) == "ordinal":
                highest = len(variables[predictor].levels) - 1
                columns.append(_ranks(complete[predictor], variables[predictor]).to_numpy() / highest)
                continue
            values = complete[predictor].to_numpy(np.float64)
            if predictor in self.bounds:
                low, high = self.bounds[predictor]
                values = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)
            columns.append(values)
        if self.missing_flags:
            columns += list(_missing(table, self.predictors).to_numpy(np.float64).T)
        return np.array(columns, dtype=np.float32).reshape(len(columns), len(table)).T

    def measured(self, table: pd.DataFrame) -> np.ndarray:
        """Whether each feature comes from values of the patient and not from imputation, bool [N, T]."""
        missing, known = _missing(table, self.predictors), np.ones((len(table), len(self.feature_names)), bool)
        for predictor, columns in self.feature_groups.items():
            known[:, list(columns)] = ~missing[[predictor]].to_numpy()
        return known

    def imputed(self, row: pd.DataFrame) -> list[str]:
        """Return one patient's missing predictors; a derived predictor is missing if one of its columns is."""
        missing = _missing(row, self.predictors).any()
        return [predictor for predictor in self.predictors if missing[predictor]]


def unfitted_encoder(cohort: CohortConfig) -> TabularEncoder:
    """An encoder that has learned nothing, of which only the features are known."""
    return TabularEncoder(
        predictors=cohort.names, own=cohort.own, missing_flags=cohort.missing_flags, fill={}, bounds={}
    )


def fit_encoder(
    table: pd.DataFrame,
    predictors: Sequence[str],
    own: Sequence[OwnPredictor] = (),
    *,
    missing_flags: bool = False,
    scaling: Scaling | None = None,
    imputation: Imputation | None = None,
) -> TabularEncoder:
    """Learn imputation and scaling from the patients of `table` (a training fold) and from nothing else.

    Args:
        own: the declarations of predictors that rlvo does not know.
        scaling: what becomes 0 and 1. `quantile` (None): the values beyond which 2.5 % of the patients lie on either
            side, and at least one, so that no single patient sets the scale. `min_max`: the extremes (section 2.2.2).
        imputation: of Tmax volumes. `ratio` (None): from the patient's other Tmax volumes by their median ratio, so
            that a part is never larger than the whole. `median`: the column's.

    Raises:
        RlvoError: a predictor cannot be one, or has no value in this fold.
    """
    own = tuple(each for each in own if each.name in predictors)
    check_predictors(predictors, own, scores=True)
    variables = known_variables(own)
    observed = _impute(table, predictors, fill={})
    sources = source_columns(predictors)
    if empty := [name for name in dict.fromkeys((*sources, *predictors)) if observed[name].isna().all()]:
        what = f"no value among the {len(table)} training patients"
        raise RlvoError(what, where=", ".join(empty), fix="Remove it from the predictors")
    fill = {name: _typical(observed[name], predictor_kind(name, variables), variables[name]) for name in sources}
    if "tmax4_tmax6_ratio" in predictors:
        fill["tmax4_tmax6_ratio"] = float(observed["tmax4_tmax6_ratio"].median())
    # The quotient of a measured and an imputed volume can be anything, so it does not set the scale.
    continuous = [p for p in predictors if predictor_kind(p, variables) == "continuous"]
    measured = {name: observed[name].dropna().to_numpy(np.float64) for name in continuous}
    return TabularEncoder(
        predictors=tuple(predictors),
        own=own,
        missing_flags=missing_flags,
        fill=fill,
        parts=_median_parts(observed) if imputation != "median" else {},
        bounds={name: _bounds(values, scaling) for name, values in measured.items()},
        extremes={name: (float(values.min()), float(values.max())) for name, values in measured.items()},
    )


def _bounds(values: np.ndarray, scaling: Scaling | None) -> tuple[float, float]:
    if scaling != "min_max":
        low = float(np.quantile(values, QUANTILES[0], method="higher"))
        high = float(np.quantile(values, QUANTILES[1], method="lower"))
        if low < high:
            return low, high
    # Nearly all values are the same: only the extremes tell patients apart.
    return float(values.min()), float(values.max())


def _median_parts(observed: pd.DataFrame) -> dict[str, float]:
    """The median ratio of neighbouring Tmax volumes, over the patients in whom both are measured."""
    parts = {}
    for whole, part in pairwise(column for column in TMAX_VOLUMES if column in observed):
        measured = observed[[part, whole]].astype("float64")
        ratio = (measured[part] / measured[whole])[measured[whole] > 0].dropna()
        if len(ratio):
            parts[part] = min(float(ratio.median()), 1.0)
    return parts


def _typical(values: pd.Series, kind: str, variable: Variable) -> float | str:
    """The median; of an ordinal variable the lower one; of a binary or categorical one the mode."""
    if kind == "continuous":
        return float(values.median())
    if kind == "ordinal":
        return variable.levels[int(_ranks(values, variable).quantile(0.5, interpolation="lower"))]
    mode: float | str = values.mode().iloc[0]
    return mode


def _ranks(values: pd.Series, variable: Variable) -> pd.Series:
    """The levels of an ordinal variable as 0, 1, …; NaN if missing."""
    return values.map({level: float(rank) for rank, level in enumerate(variable.levels)}).astype("float64")


def _counted_levels(predictor: str, variables: Mapping[str, Variable]) -> tuple[str, ...]:
    """Return the levels that have a feature: all of a categorical variable (one-hot), the second of a binary one."""
    kind = predictor_kind(predictor, variables)
    levels = variables[predictor].levels if kind in ("binary", "categorical") else ()
    return levels[1:] if kind == "binary" else levels


def _feature_names(predictor: str, variables: Mapping[str, Variable]) -> list[str]:
    return [f"{predictor}={level}" for level in _counted_levels(predictor, variables)] or [predictor]


def _missing(table: pd.DataFrame, predictors: Sequence[str]) -> pd.DataFrame:
    absent = table.reindex(columns=list(source_columns(predictors))).isna()
    return pd.DataFrame({p: absent[list(source_columns([p]))].any(axis=1) for p in predictors}, index=table.index)


def _impute(
    table: pd.DataFrame,
    predictors: Sequence[str],
    fill: Mapping[str, float | str],
    parts: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Fill in the predictors' columns, and compute derived predictors from the filled columns."""
    complete = table.reindex(columns=list(source_columns(predictors)))
    if parts:
        complete = _impute_nested(complete, fill, parts)
    complete = complete.fillna(dict(fill))
    for derived in RATIOS:
        if derived in predictors:
            numerator, denominator = (complete[column].astype("float64") for column in RATIOS[derived])
            # No hypoperfused volume: nothing is severe (HIR 0); the other ratio is undefined (docs/method.md).
            undefined = 0.0 if derived == "hir" else fill.get(derived, float("nan"))
            complete[derived] = (numerator / denominator).mask(denominator == 0, undefined)
    return complete


def _impute_nested(table: pd.DataFrame, fill: Mapping[str, float | str], parts: Mapping[str, float]) -> pd.DataFrame:
    """Fill in Tmax volumes so that a part is never larger than the whole, unless the measured volumes are.

    A volume follows from its measured neighbour by their median ratio. If a patient has none, the larger of the first
    pair is its column's median, from which the others follow.
    """
    neighbours = pairwise(column for column in TMAX_VOLUMES if column in table)
    pairs = [(part, whole) for whole, part in neighbours if part in parts][::-1]
    columns = list(dict.fromkeys(column for pair in pairs for column in pair))
    measured = table[columns].astype("float64")
    volumes = measured.copy()
    anchor = pairs[0][1]
    volumes[anchor] = volumes[anchor].mask(volumes.isna().all(axis=1), float(fill[anchor]))
    # Twice, because the second pair can tell what the first needs. The median is taken last: if all that is known is a
    # part of 0 mL, which does not tell how large the whole is.
    for may_guess in (False, True):
        for part, whole in [*pairs, *pairs]:
            is_telling = (volumes[part] > 0) & (parts[part] > 0)
            guess = volumes[part].clip(lower=float(fill[whole])) if may_guess else np.nan
            from_part = (volumes[part] / (parts[part] or 1)).where(is_telling, guess)
            from_whole = volumes[whole] * parts[part]
            volumes[part], volumes[whole] = volumes[part].fillna(from_whole), volumes[whole].fillna(from_part)
    for part, whole in [*pairs, *reversed(pairs)]:  # what follows from one neighbour must fit the other
        volumes[whole] = volumes[whole].where(measured[whole].notna(), volumes[[part, whole]].max(axis=1))
        volumes[part] = volumes[part].where(measured[part].notna(), volumes[[part, whole]].min(axis=1))
    return table.assign(**volumes)
