"""Compare all ways to build an ensemble on the development patients."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import get_args

import pandas as pd

from rlvo.config.study import EnsembleConfig
from rlvo.ensemble.calibration import cross_calibrated, margins_of_mean
from rlvo.ensemble.fitting import Validation, fit_fold, fit_member, score_patients
from rlvo.ensemble.selection import Selection, rank_configurations, select_configurations
from rlvo.ensemble.weighting import Weighting
from rlvo.evaluation.performance import measure_performance
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
    """Measure every selection × weighting on out-of-fold patients, once `optimistic` and once `nested`.

    Each patient has the margin and vote of its own fold. Optimistic: configurations, weights and thresholds were chosen
    on these patients too. Nested: they were chosen on the other folds' patients (`nested_margins`). The vote over folds
    cannot be estimated here: a development patient was in the training set of every fold but one.

    Args:
        records: of the study's trials; configurations that have not finished every fold are left out.
        predictions: stored predictions of the finished trials.

    Returns:
        The columns of COLUMNS, two rows per selection × weighting; `low` and `high` bound the AUC's 95 %
        interval over patients, which does not account for the selection.

    Raises:
        RlvoError: no configuration has finished every fold.
    """
    validation, complete = Validation.of(predictions), _complete(records)
    estimates: dict[str, Callable[..., pd.DataFrame]] = {"optimistic": optimistic_margins, "nested": nested_margins}
    rows = []
    for selection, weighting, estimate in product(selections, weightings, estimates):
        scored = estimates[estimate](complete, validation, selection, weighting)
        found = measure_performance(scored["label"], scored["score"], scored["vote"])
        decisions = found.balanced_accuracy, found.sensitivity, found.specificity
        rows.append((selection, weighting, estimate, found.auc, *found.interval, *decisions))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def nested_probabilities(
    records: Sequence[CompletionRecord],
    predictions: pd.DataFrame,
    settings: EnsembleConfig,
    disagreement: float | None = None,
) -> pd.DataFrame:
    """Calibrate nested margins, for a reliability curve: index patient; `label`, `probability`.

    Each patient's margin and calibrator come from the other folds alone, in the same way as the ensemble's.

    Args:
        disagreement: between the folds; margins are then those of the mean over folds (`margins_of_mean`).
    """
    scored = nested_margins(_complete(records), Validation.of(predictions), settings.selection, settings.weighting)
    fold, label, score = scored["fold"], scored["label"], scored["score"].to_numpy()
    if disagreement is not None:
        score = margins_of_mean(fold, label, score, folds=fold.nunique(), disagreement=disagreement)
    probability = cross_calibrated(fold, label, score, settings.calibration)
    return scored[["label"]].assign(probability=probability)


def optimistic_margins(
    records: Sequence[CompletionRecord], validation: Validation, selection: Selection, weighting: Weighting
) -> pd.DataFrame:
    """As `score_patients`, with everything chosen on and fitted to the patients that are scored."""
    folds = _folds(records)
    chosen = select_configurations(selection, rank_configurations(records).candidates, validation, folds, weighting)
    parts = []
    for fold in folds:
        table = validation.table(fold, chosen)
        fitted = fit_fold(fold, [validation.fitted(fold, c) for c in chosen], table, weighting)
        parts.append(score_patients(fitted, table, weighting))
    return pd.concat(parts)


def nested_margins(
    records: Sequence[CompletionRecord], validation: Validation, selection: Selection, weighting: Weighting
) -> pd.DataFrame:
    """As `score_patients`, with nothing chosen on or fitted to the patients that are scored.

    For each fold, configurations are chosen by the other folds' validation. TPR, TNR and thresholds are fitted to the
    pooled patients of the other folds, predicted by their own folds' members, and applied to this fold's members and
    patients. Two biases remain: each member's best epoch was chosen on its own validation patients (optimistic), and
    rates and thresholds are carried over from other folds' networks (pessimistic).

    Args:
        records: of configurations that have finished every fold.
        validation: their predictions.
    """
    parts = []
    folds = _folds(records)
    for fold in folds:
        others = [other for other in folds if other != fold]
        ranked = rank_configurations(record for record in records if record.identity.fold != fold).candidates
        chosen = select_configurations(selection, ranked, validation, others, weighting)
        pooled = pd.concat([validation.table(other, chosen) for other in others])
        fitted = fit_fold(fold, [fit_member(fold, c, pooled) for c in chosen], pooled, weighting)
        parts.append(score_patients(fitted, validation.table(fold, chosen), weighting))
    return pd.concat(parts)


def _complete(records: Sequence[CompletionRecord]) -> list[CompletionRecord]:
    usable = {candidate.configuration for candidate in rank_configurations(records).candidates}
    return [record for record in records if record.configuration in usable]


def _folds(records: Sequence[CompletionRecord]) -> list[int]:
    return sorted({record.identity.fold for record in records})
