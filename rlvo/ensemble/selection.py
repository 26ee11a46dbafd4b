"""Which configurations serve an ensemble, by validation alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.stats import rankdata

from rlvo.config.model import Configuration, Modality
from rlvo.config.study import StudyConfig
from rlvo.ensemble.validation import LABEL, Validation
from rlvo.ensemble.weighting import Weighting, combine
from rlvo.training.records import CompletionRecord

Selection = Literal["best_per_modality", "same_spec", "greedy"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
GREEDY_ROUNDS = 12
"""The most that greedy selection puts into a fold, repeats counted."""


@dataclass(frozen=True)
class Candidate:
    """A configuration whose every fold is finished."""

    configuration: Configuration
    auc: float
    """Mean over folds of `val/auc` at each fold's best checkpoint."""

    @property
    def modality(self) -> Modality:
        return self.configuration.model.modality

    @property
    def spec(self) -> str:
        """The model spec without its modality, e.g. `densenet169 +prior daft`."""
        model = self.configuration.model
        return " ".join(part for part in (model.backbone, "+prior" if model.prior else "", model.fusion) if part)


@dataclass(frozen=True)
class Ranking:
    """A study's configurations as an ensemble can use them."""

    candidates: tuple[Candidate, ...]
    """Best first."""
    missing: tuple[str, ...]
    """What the study searched and an ensemble will lack, in words: folds that are not finished, whole modalities."""
    notes: tuple[str, ...]
    """What was left out as it should be: pruned configurations."""


def rank(records: Iterable[CompletionRecord], modalities: Collection[Modality] = ()) -> Ranking:
    """The candidates among the configurations of `records`.

    Args:
        records: of all trials that have ended.
        modalities: that the study searched (`searched_modalities`); those in the records are too.
    """
    trials: dict[Configuration, dict[int, CompletionRecord]] = defaultdict(dict)
    for record in records:
        trials[record.configuration][record.identity.fold] = record
    folds = {fold for of_configuration in trials.values() for fold in of_configuration}
    pruned = {c for c, of_fold in trials.items() if any(r.status == "pruned" for r in of_fold.values())}
    complete: list[Candidate] = []
    missing: list[str] = []
    for configuration, of_fold in ((c, of_fold) for c, of_fold in trials.items() if c not in pruned):
        aucs = {fold: r.metrics.get("val/auc", np.nan) for fold, r in of_fold.items() if r.status == "finished"}
        if unusable := sorted(folds - {fold for fold, auc in aucs.items() if np.isfinite(auc)}):
            which = ", ".join(map(str, unusable))
            missing.append(f"{configuration.label} ({configuration.key}) has no usable fold {which}")
        else:
            complete.append(Candidate(configuration, float(np.mean(list(aucs.values())))))
    searched = {*modalities, *(configuration.model.modality for configuration in trials)}
    absent = searched - {candidate.modality for candidate in complete}
    return Ranking(
        # The key breaks ties, so that the order the records were read in decides nothing.
        candidates=tuple(sorted(complete, key=lambda c: (-c.auc, c.configuration.key))),
        missing=(
            *(f"no {modality} configuration has finished" for modality in MODALITIES if modality in absent),
            *sorted(missing),
        ),
        notes=(f"{len(pruned)} pruned configuration(s) are left out",) if pruned else (),
    )


def searched_modalities(study: StudyConfig) -> tuple[Modality, ...]:
    """The modalities that the study's space, or else its base model, holds."""
    address = "model.modality"
    axis = study.space.sample.get(address)
    values = study.space.enumerate.get(address, getattr(axis, "choices", (study.model.modality,)))
    return tuple(modality for modality in MODALITIES if modality in values)


def select(
    selection: Selection,
    ranked: Sequence[Candidate],
    validation: Validation,
    folds: Sequence[int],
    weighting: Weighting,
) -> list[Configuration]:
    """What an ensemble takes of the candidates, which are best first, by the validation patients of `folds`."""
    match selection:
        case "best_per_modality":
            return best_per_modality(ranked)
        case "same_spec":
            return per_spec(ranked)[best_spec(ranked)]
        case "greedy":
            return greedy(ranked, validation, folds, weighting)


def best_per_modality(ranked: Sequence[Candidate]) -> list[Configuration]:
    """The best candidate of each modality that has one; `ranked` is best first."""
    best = {candidate.modality: candidate.configuration for candidate in reversed(ranked)}
    return [best[modality] for modality in MODALITIES if modality in best]


def per_spec(ranked: Sequence[Candidate]) -> dict[str, list[Configuration]]:
    """For every model spec its best candidate of each modality: the rows of the paper's Table 3."""
    specs = sorted({candidate.spec for candidate in ranked})
    return {spec: best_per_modality([c for c in ranked if c.spec == spec]) for spec in specs}


def best_spec(ranked: Sequence[Candidate]) -> str:
    """The model spec with the most modalities; among those, the highest mean AUC over its modalities."""
    auc = {candidate.configuration: candidate.auc for candidate in ranked}
    groups = per_spec(ranked)
    return max(groups, key=lambda spec: (len(groups[spec]), np.mean([auc[c] for c in groups[spec]])))


def greedy(
    ranked: Sequence[Candidate], validation: Validation, folds: Sequence[int], weighting: Weighting
) -> list[Configuration]:
    """Forward selection with replacement (Caruana et al. 2004), whatever the modality.

    Each round adds the configuration with which the mean over folds of the combined score's AUC is highest, the better
    ranked one where several are; one that is added again counts again. The best round's ensemble is taken, the smaller
    one where several are.
    """
    configurations = [candidate.configuration for candidate in ranked]
    evidence = [_Evidence.of(configurations, validation, fold) for fold in folds]
    chosen: list[int] = []
    best, best_auc = chosen, -1.0
    for _ in range(GREEDY_ROUNDS):
        # Rounded, so that the last bit of a mean decides nothing.
        aucs = np.mean([of_fold.aucs(chosen, weighting) for of_fold in evidence], axis=0).round(12)
        chosen = [*chosen, int(aucs.argmax())]
        if aucs.max() > best_auc:
            best, best_auc = chosen, float(aucs.max())
    return sorted((configurations[index] for index in sorted(best)), key=lambda c: MODALITIES.index(c.model.modality))


@dataclass(frozen=True)
class _Evidence:
    """All C candidates on the N validation patients of one fold."""

    label: np.ndarray
    probability: np.ndarray
    """[C, N]"""
    tpr: np.ndarray
    tnr: np.ndarray

    @classmethod
    def of(cls, configurations: Sequence[Configuration], validation: Validation, fold: int) -> _Evidence:
        table = validation.table(fold, configurations)
        members = [validation.fitted(fold, configuration) for configuration in configurations]
        return cls(
            label=table[LABEL].to_numpy() == 1,
            probability=table[[configuration.key for configuration in configurations]].to_numpy().T,
            tpr=np.array([member.tpr for member in members]),
            tnr=np.array([member.tnr for member in members]),
        )

    def aucs(self, chosen: Sequence[int], weighting: Weighting) -> np.ndarray:
        """[C]: AUC of the combined score of `chosen` and each candidate, in the Mann-Whitney form."""
        rows = [[*chosen, candidate] for candidate in range(len(self.probability))]
        scores = np.stack([combine(weighting, self.probability[i], self.tpr[i], self.tnr[i]) for i in rows])
        # Rounded, so that equal scores stay tied whatever the order of their sums.
        ranks = rankdata(scores.round(12), axis=1)
        positives, negatives = self.label.sum(), (~self.label).sum()
        return (ranks[:, self.label].sum(axis=1) - positives * (positives + 1) / 2) / (positives * negatives)
