"""Every way to build an ensemble side by side, on development patients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import pandas as pd

from rlvo.config.study import EnsembleConfig
from rlvo.ensemble.calibration import cross_calibrated
from rlvo.ensemble.fitting import fit_fold, margins
from rlvo.ensemble.selection import Selection, rank, select
from rlvo.ensemble.validation import Validation, fit_member
from rlvo.ensemble.weighting import Weighting
from rlvo.errors import RlvoError
from rlvo.evaluation.figures import figures
from rlvo.training.records import CompletionRecord

COLUMNS = (
    "selection", "weighting", "estimate", "auc", "low", "high", "balanced_accuracy", "sensitivity", "specificity",
)  # fmt: skip


def compare_ensembles(
    records: Sequence[CompletionRecord],
    predictions: pd.DataFrame,
    selections: Sequence[Selection] = get_args(Selection),
    weightings: Sequence[Weighting] = get_args(Weighting),
) -> pd.DataFrame:
    """Figures of every selection × weighting on out-of-fold patients, once `optimistic` and once `nested`.

    Each patient has the margin and vote of its own fold. Optimistic: configurations, weights and thresholds were
    chosen on these patients too. Nested: on the other folds' patients (`nested_margins`). The vote over folds cannot
    be estimated here: a development patient was in the training set of every fold but one.

    Args:
        records: of the study's trials; configurations that have not finished every fold are left out.
        predictions: stored predictions of the finished trials.

    Returns:
        The columns of COLUMNS, two rows a selection × weighting; `low` and `high` bound the AUC's 95 % bootstrap
        interval over patients, which takes what was chosen for given.
    """
    validation, complete = Validation.of(predictions), _complete(records)
    estimates: dict[str, Callable[..., pd.DataFrame]] = {"optimistic": optimistic_margins, "nested": nested_margins}
    rows = []
    for selection in selections:
        for weighting in weightings:
            for estimate, scored_by in estimates.items():
                scored = scored_by(complete, validation, selection, weighting)
                found = figures(scored["label"], scored["score"], scored["vote"])
                decisions = found.balanced_accuracy, found.sensitivity, found.specificity
                rows.append((selection, weighting, estimate, found.auc, *found.interval, *decisions))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def nested_probabilities(
    records: Sequence[CompletionRecord], predictions: pd.DataFrame, settings: EnsembleConfig
) -> pd.DataFrame:
    """Index patient; `label`, `probability`: calibrated nested margins, for a reliability curve.

    Each patient's margin and calibrator come from the other folds alone, by the same recipe as the ensemble's.
    """
    scored = nested_margins(_complete(records), Validation.of(predictions), settings.selection, settings.weighting)
    probability = cross_calibrated(scored["fold"], scored["label"], scored["score"], settings.calibration)
    return scored[["label"]].assign(probability=probability)


def optimistic_margins(
    records: Sequence[CompletionRecord], validation: Validation, selection: Selection, weighting: Weighting
) -> pd.DataFrame:
    """Columns of `fitting.margins`, everything chosen and fitted on the patients that are scored."""
    folds = _folds(records)
    chosen = select(selection, rank(records).candidates, validation, folds, weighting)
    parts = []
    for fold in folds:
        table = validation.table(fold, chosen)
        fitted = fit_fold(fold, [validation.fitted(fold, c) for c in chosen], table, weighting)
        parts.append(margins(fitted, table, weighting))
    return pd.concat(parts)


def nested_margins(
    records: Sequence[CompletionRecord], validation: Validation, selection: Selection, weighting: Weighting
) -> pd.DataFrame:
    """Columns of `fitting.margins`; a fold's patients are looked at only to be scored.

    For each fold, configurations are chosen by the other folds' validation; TPR, TNR and thresholds are those of the
    other folds' patients pooled, each by its own fold's members; applied to the fold's own members and patients. Two
    things no nesting undoes: each member's best epoch was chosen by its own validation patients (optimistic), and
    rates and thresholds are carried from other folds' networks to this one's (pessimistic).

    Args:
        records: of configurations that have finished every fold.
        validation: their predictions.
    """
    parts = []
    folds = _folds(records)
    for fold in folds:
        others = [other for other in folds if other != fold]
        ranked = rank(record for record in records if record.identity.fold != fold).candidates
        chosen = select(selection, ranked, validation, others, weighting)
        pooled = validation.pooled(others, chosen)
        fitted = fit_fold(fold, [fit_member(fold, c, pooled) for c in chosen], pooled, weighting)
        parts.append(margins(fitted, validation.table(fold, chosen), weighting))
    return pd.concat(parts)


def _complete(records: Sequence[CompletionRecord]) -> list[CompletionRecord]:
    usable = {candidate.configuration for candidate in rank(records).candidates}
    if not usable:
        raise RlvoError("no configuration has finished all its folds", fix="Let 'rlvo search' finish first")
    return [record for record in records if record.configuration in usable]


def _folds(records: Sequence[CompletionRecord]) -> list[int]:
    return sorted({record.identity.fold for record in records})
