"""Predictors as numbers: imputation, derived variables, 0–1 scaling and one-hots, all fitted on a training fold."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from rlvo.cohort.variables import RATIOS, VARIABLES, check_predictors, predictor_kind, source_columns
from rlvo.config.base import Frozen
from rlvo.errors import RlvoError


class TabularEncoder(Frozen):
    """What was learned from a training fold about the predictors; plain data, so that it can be stored as JSON.

    A patient's encoding does not depend on the other patients encoded, and nothing is learned from them.
    """

    predictors: tuple[str, ...]
    missing_flags: bool = False
    """Append one 0/1 feature per predictor: whether it was missing."""
    fill: dict[str, float | str]
    """Median (continuous) or mode of each table column, and the median of `tmax4_tmax6_ratio`."""
    bounds: dict[str, tuple[float, float]]
    """Minimum and maximum of the measured values of each continuous predictor."""

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the T features, e.g. `age`, `sex=F`, `occlusion_side=left`, `occlusion_side=right`."""
        names = [name for predictor in self.predictors for name in _feature_names(predictor)]
        if self.missing_flags:
            names += [f"{predictor}=missing" for predictor in self.predictors]
        return tuple(names)

    @property
    def reference_features(self) -> tuple[str, ...]:
        """Names of the one-hots of reference levels, which logistic fits leave out."""
        return tuple(_feature_names(p)[0] for p in self.predictors if predictor_kind(p) == "categorical")

    def transform(self, table: pd.DataFrame) -> np.ndarray:
        """Return each patient's features, [N, T] float32 within 0–1. An absent column counts as missing."""
        complete = _impute(table, self.predictors, self.fill)
        columns: list[np.ndarray] = []
        for predictor in self.predictors:
            if levels := _counted_levels(predictor):
                columns += [(complete[predictor] == level).to_numpy(np.float64) for level in levels]
                continue
            values = complete[predictor].to_numpy(np.float64)
            if predictor in self.bounds:
                low, high = self.bounds[predictor]
                values = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)
            columns.append(values)
        if self.missing_flags:
            columns += list(_missing(table, self.predictors).to_numpy(np.float64).T)
        return np.array(columns, dtype=np.float32).reshape(len(columns), len(table)).T

    def imputed(self, row: pd.DataFrame) -> list[str]:
        """Return one patient's missing predictors; a derived predictor is missing if one of its columns is."""
        missing = _missing(row, self.predictors).any()
        return [predictor for predictor in self.predictors if missing[predictor]]


def fit_encoder(table: pd.DataFrame, predictors: Sequence[str], *, missing_flags: bool = False) -> TabularEncoder:
    """Learn imputation and scaling from the patients of `table` (a training fold) and from nothing else.

    Raises:
        RlvoError: a predictor cannot be one, or has no value in this fold.
    """
    check_predictors(predictors, scores=True)
    observed = _impute(table, predictors, fill={})
    sources = source_columns(predictors)
    if empty := [name for name in dict.fromkeys((*sources, *predictors)) if observed[name].isna().all()]:
        what = f"no value among the {len(table)} training patients"
        raise RlvoError(what, where=", ".join(empty), fix="Remove it from the predictors")
    fill: dict[str, float | str] = {
        name: float(observed[name].median()) if predictor_kind(name) == "continuous" else observed[name].mode().iloc[0]
        for name in sources
    }
    if "tmax4_tmax6_ratio" in predictors:
        fill["tmax4_tmax6_ratio"] = float(observed["tmax4_tmax6_ratio"].median())
    # The quotient of a measured and an imputed volume can be anything, so it is clipped and does not set the scale.
    bounds = {
        p: (float(observed[p].min()), float(observed[p].max())) for p in predictors if predictor_kind(p) == "continuous"
    }
    return TabularEncoder(predictors=tuple(predictors), missing_flags=missing_flags, fill=fill, bounds=bounds)


def _counted_levels(predictor: str) -> tuple[str, ...]:
    """Return the levels that have a feature: all of a categorical variable (one-hot), the second of a binary one."""
    levels = VARIABLES[predictor].levels if predictor in VARIABLES else ()
    return levels[1:] if predictor_kind(predictor) == "binary" else levels


def _feature_names(predictor: str) -> list[str]:
    return [f"{predictor}={level}" for level in _counted_levels(predictor)] or [predictor]


def _missing(table: pd.DataFrame, predictors: Sequence[str]) -> pd.DataFrame:
    absent = table.reindex(columns=list(source_columns(predictors))).isna()
    return pd.DataFrame({p: absent[list(source_columns([p]))].any(axis=1) for p in predictors}, index=table.index)


def _impute(table: pd.DataFrame, predictors: Sequence[str], fill: Mapping[str, float | str]) -> pd.DataFrame:
    """Fill in the predictors' columns, and compute derived predictors from the filled columns."""
    complete = table.reindex(columns=list(source_columns(predictors))).fillna(dict(fill))
    for derived in RATIOS:
        if derived in predictors:
            numerator, denominator = (complete[column].astype("float64") for column in RATIOS[derived])
            # No hypoperfused volume: nothing is severe (HIR 0); the other ratio is undefined (docs/method.md).
            undefined = 0.0 if derived == "hir" else fill.get(derived, float("nan"))
            complete[derived] = (numerator / denominator).mask(denominator == 0, undefined)
    return complete
