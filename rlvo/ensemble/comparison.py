"""Compare all ways to build an ensemble on the development patients."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import get_args

import numpy as np
import pandas as pd

from rlvo.config.sections import EnsembleConfig
from rlvo.ensemble.build import STUDY_ENSEMBLE
from rlvo.ensemble.calibration import cross_calibrated, margins_of_mean
from rlvo.ensemble.fitting import Validation, fit_fold, fit_member, score_patients
from rlvo.ensemble.selection import (
    Candidate,
    Selection,
    folds_unseen_by_pruning,
    rank_configurations,
    select_configurations,
)
from rlvo.ensemble.voting import Tie, majority_vote
from rlvo.ensemble.weighting import Weighting
from rlvo.evaluation.performance import measure_performance
from rlvo.training.records import CompletionRecord

COLUMNS = (
    "selection", "weighting", "member_scale", "table_member", "linear_image", "estimate", "auc", "low", "high",
    "balanced_accuracy", "sensitivity", "specificity", "basis",
)  # fmt: skip
WAY = COLUMNS[:5]
"""Settings that make a way to build an ensemble."""
ALL_FOLDS = "all folds"
VOTERS = 20_000
"""Simulated patients of each class."""


def every_way(settings: EnsembleConfig) -> list[EnsembleConfig]:
    """The settings with every selection × weighting × scale of the members, without and with the table's model.

    The linear model of the volumes would make three times as many: only the settings themselves are without it, and
    with either kind of it.
    """
    values = get_args(Selection), get_args(Weighting), ("none", "platt"), ("none", "ridge")
    ways = [settings.model_copy(update=dict(zip(WAY, way, strict=False))) for way in product(*values)]
    kinds = [each for each in ("none", "alone", "with_table") if each != settings.linear_image]
    return [*ways, *(settings.model_copy(update={"linear_image": each}) for each in kinds)]


def compare_ensembles(
    records: Sequence[CompletionRecord], predictions: pd.DataFrame, ways: Sequence[EnsembleConfig]
) -> pd.DataFrame:
    """Measure ways to build an ensemble on out-of-fold patients, each once `optimistic` and once `nested`.

    Each patient has the margin and vote of its own fold. Optimistic: configurations, weights and thresholds were chosen
    on these patients too. Nested: they were chosen on the other folds' patients (`nested_margins`). `basis` says which
    folds' patients are scored, or why the nested estimate is optimistic after all (`nested_basis`). The vote over folds
    cannot be estimated here: a development patient was in the training set of every fold but one.

    Args:
        records: of the study's trials; configurations that have not finished every fold are left out.
        predictions: stored predictions of the finished trials.

    Returns:
        The columns of COLUMNS, two rows per way; `low` and `high` bound the AUC's 95 % interval over patients, which
        does not account for the selection.

    Raises:
        RlvoError: no configuration has finished every fold.
    """
    estimates: dict[str, Callable[..., pd.DataFrame]] = {"optimistic": optimistic_margins, "nested": nested_margins}
    rows = []
    kinds = [(way.member_scale, way.table_member, way.linear_image) for way in ways]
    validations = {kind: Validation.of(predictions, way) for kind, way in zip(kinds, ways, strict=True)}
    for way, estimate in product(ways, estimates):
        validation = validations[way.member_scale, way.table_member, way.linear_image]
        scored = estimates[estimate](records, validation, way.selection, way.weighting)
        found = measure_performance(scored["label"], scored["score"], scored["vote"])
        decisions = found.balanced_accuracy, found.sensitivity, found.specificity
        basis = nested_basis(records) if estimate == "nested" else ALL_FOLDS
        names = *(getattr(way, name) for name in WAY), estimate
        rows.append((*names, found.auc, *found.interval, *decisions, basis))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def one_change(compared: pd.DataFrame, settings: EnsembleConfig) -> pd.DataFrame:
    """Of compared ways those that differ from a study's own in one setting at most; its own has an empty `change`.

    Baselines that were not compared, because they could not be read, are left out of its own.

    Args:
        compared: from `compare_ensembles`.
        settings: the study's.

    Returns:
        The same columns, and `change`, e.g. `weighting: youden`.
    """
    own = {name: getattr(settings, name) for name in WAY}
    for name in ("table_member", "linear_image"):
        own[name] = own[name] if own[name] in set(compared[name]) else "none"
    changes = [
        [f"{name}: {way[name]}" for name in WAY if way[name] != own[name]] for way in compared.to_dict("records")
    ]
    shown = compared.assign(change=[", ".join(each) for each in changes])
    return shown[[len(each) <= 1 for each in changes]]


def nested_probabilities(
    records: Sequence[CompletionRecord],
    predictions: pd.DataFrame,
    settings: EnsembleConfig,
    disagreement: float | None = None,
) -> pd.DataFrame:
    """Calibrate nested margins, for a reliability curve: index patient; `label`, `probability`.

    Each patient's margin and calibrator come from the other folds alone, in the same way as the ensemble's. Patients
    are those of `nested_margins`.

    Args:
        disagreement: between the folds; margins are then those of the mean over folds (`margins_of_mean`).
    """
    validation, complete = Validation.of(predictions, settings), _complete(records)
    scored = all_scored = nested_margins(records, validation, settings.selection, settings.weighting)
    if scored["fold"].nunique() == 1:  # there is no other fold to calibrate on but those that pruning saw
        all_scored = nested_margins(complete, validation, settings.selection, settings.weighting)
    fold, label, score = all_scored["fold"], all_scored["label"], all_scored["score"].to_numpy()
    if disagreement is not None:
        score = margins_of_mean(fold, label, score, folds=len(_folds(complete)), disagreement=disagreement)
    probability = cross_calibrated(fold, label, score, settings.calibration)
    return all_scored[["label"]].assign(probability=probability).loc[scored.index]


def simulate_votes(scored: pd.DataFrame, folds: int, correlation: float) -> pd.DataFrame:
    """What the vote of `folds` folds would be worth under each rule for ties: a simulation, not an observation.

    A development patient has one fold's margin, so a vote cannot be seen. Instead, margins of all folds are drawn for
    VOTERS patients of each class: normal, with the mean and SD that the class has in `scored`, and correlated between
    folds.

    Args:
        scored: nested margins (`nested_margins`).
        correlation: of two folds' margins within a class, 0–1.

    Returns:
        Index `tie`; columns `balanced_accuracy`, `sensitivity`, `specificity`, `tied` (share of patients, mean of both
        classes).
    """
    random, rows = np.random.default_rng(0), {}
    by_class = scored.groupby("label")["score"].agg(["mean", "std"]).fillna(0.0)
    noise = np.sqrt(correlation) * random.normal(size=(1, VOTERS)) + np.sqrt(1 - correlation) * random.normal(
        size=(folds, VOTERS)
    )
    margins = {label: own["mean"] + own["std"] * noise for label, own in by_class.iterrows()}
    tied = np.mean([(2 * (each >= 0).sum(axis=0) == folds).mean() for each in margins.values()])
    for tie in get_args(Tie):
        positive = {label: majority_vote(each >= 0, each, tie).mean() for label, each in margins.items()}
        sensitivity, specificity = positive[1], 1 - positive[0]
        rows[tie] = ((sensitivity + specificity) / 2, sensitivity, specificity, tied)
    columns = ["balanced_accuracy", "sensitivity", "specificity", "tied"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("tie")


def nested_answers(
    records: Sequence[CompletionRecord], predictions: pd.DataFrame, settings: EnsembleConfig
) -> dict[str, pd.DataFrame]:
    """Nested margins (`nested_margins`) by ensemble: the study's own, each modality's best, and each model spec's.

    A modality stands for itself only if the study's ensemble takes the best of each.

    Raises:
        RlvoError: no configuration has finished every fold.
    """
    validation, ranked = Validation.of(predictions, settings), rank_configurations(records).candidates
    found = {STUDY_ENSEMBLE: nested_margins(records, validation, settings.selection, settings.weighting)}
    networks = validation.networks_alone()
    kinds: list[Callable[[Candidate], str]] = [lambda candidate: candidate.spec]
    if settings.selection == "best_per_modality":
        kinds.insert(0, lambda candidate: candidate.modality)
    for kind in kinds:
        of_group = {candidate.configuration: kind(candidate) for candidate in ranked}
        grouped = [(record, of_group.get(record.configuration)) for record in records]  # hashes take long
        for name in dict.fromkeys(of_group.values()):
            # With what was pruned, which decides whose patients are unseen.
            own = [record for record, group in grouped if record.outcome == "pruned" or group == name]
            found[name] = nested_margins(own, networks, "best_per_modality", settings.weighting)
    return found


def nested_basis(records: Sequence[CompletionRecord]) -> str:
    """Whose patients the nested estimate is about, in words."""
    unseen = folds_unseen_by_pruning(records)
    if not unseen:
        return "optimistic: configurations were pruned on every fold"
    if unseen == _folds(records):
        return ALL_FOLDS
    return f"only folds {', '.join(map(str, unseen))}, which pruning did not see"


def optimistic_margins(
    records: Sequence[CompletionRecord], validation: Validation, selection: Selection, weighting: Weighting
) -> pd.DataFrame:
    """As `score_patients`, with everything chosen on and fitted to the patients that are scored."""
    complete = _complete(records)
    folds = _folds(complete)
    chosen = select_configurations(selection, rank_configurations(complete).candidates, validation, folds, weighting)
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

    If configurations were pruned, only patients of the folds that pruning did not see are scored; if it saw all, all
    are, and the estimate is optimistic (`nested_basis`).

    For each fold, configurations are chosen by the other folds' validation. TPR, TNR and thresholds are fitted to the
    pooled patients of the other folds, predicted by their own folds' members, and applied to this fold's members and
    patients. Two biases remain: each member's best epoch was chosen on its own validation patients (optimistic), and
    rates and thresholds are carried over from other folds' networks (pessimistic).

    Args:
        records: of the study's trials.
        validation: predictions of configurations that have finished every fold.
    """
    parts = []
    complete = _complete(records)
    folds = _folds(complete)
    for fold in folds_unseen_by_pruning(records) or folds:
        others = [other for other in folds if other != fold]
        ranked = rank_configurations(record for record in complete if record.identity.fold != fold).candidates
        chosen = select_configurations(selection, ranked, validation, others, weighting)
        pooled = pd.concat([validation.table(other, chosen) for other in others])
        fitted = fit_fold(fold, [fit_member(fold, c, pooled, validation.settings) for c in chosen], pooled, weighting)
        parts.append(score_patients(fitted, validation.table(fold, chosen), weighting))
    return pd.concat(parts)


def _complete(records: Sequence[CompletionRecord]) -> list[CompletionRecord]:
    usable = {candidate.configuration for candidate in rank_configurations(records).candidates}
    return [record for record in records if record.configuration in usable]


def _folds(records: Sequence[CompletionRecord]) -> list[int]:
    return sorted({record.identity.fold for record in records})
