"""Select the configurations of an ensemble, by validation alone."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, Self, get_args

import numpy as np
from scipy.stats import rankdata

from rlvo.config.model import Configuration, Modality
from rlvo.config.sections import EnsembleConfig
from rlvo.config.study import StudyConfig
from rlvo.ensemble.fitting import LABEL, Validation
from rlvo.ensemble.spec import IMAGE, IMAGE_TABLE, LABELS, TABLE, Contender
from rlvo.ensemble.weighting import Weighting, combine
from rlvo.errors import RlvoError
from rlvo.training.records import OBJECTIVE, CompletionRecord, standard_error

Selection = Literal["best_per_modality", "same_spec", "greedy"]
Choice = Literal["best", "one_standard_error"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
GREEDY_ROUNDS = 12
"""Greedy selection puts at most so many members into a fold, repeats counted."""


class UnfinishedError(RlvoError):
    """There is no trial of which an ensemble could be built yet."""


class IncompleteError(UnfinishedError):
    """Trials have not finished, without which an ensemble can be built all the same."""


@dataclass(frozen=True)
class Candidate:
    """A configuration that has finished every fold."""

    configuration: Configuration
    aucs: tuple[float, ...]
    """The objective on each fold."""

    @property
    def auc(self) -> float:
        """The mean over the folds, by which configurations are compared."""
        return math.fsum(self.aucs) / len(self.aucs)

    @property
    def standard_error(self) -> float | None:
        """Of that mean over the folds; None with a single one."""
        return standard_error(self.aucs)

    @property
    def modality(self) -> Modality:
        return self.configuration.model.modality

    @property
    def spec(self) -> str:
        """The model spec without its modality, e.g. `densenet169 +prior daft`."""
        model = self.configuration.model
        return " ".join([model.backbone, *model.inputs, model.fusion])


@dataclass(frozen=True)
class Ranking:
    """A study's configurations as an ensemble can use them."""

    candidates: tuple[Candidate, ...]
    """Best first."""
    missing: tuple[str, ...]
    """What the study searched but an ensemble cannot have, in words: unfinished configurations, whole modalities."""
    notes: tuple[str, ...]
    """What is left out on purpose, in words: pruned configurations."""


def rank_configurations(records: Iterable[CompletionRecord], modalities: Collection[Modality] = ()) -> Ranking:
    """Rank the configurations of `records` that have finished every fold.

    Args:
        records: of all trials that have ended.
        modalities: those the study searched (`searched_modalities`), if there may be some without a record.

    Raises:
        UnfinishedError: there are none.
    """
    trials: dict[Configuration, dict[int, CompletionRecord]] = defaultdict(dict)
    for record in records:
        trials[record.configuration][record.identity.fold] = record
    folds = {fold for of_configuration in trials.values() for fold in of_configuration}
    pruned = {c for c, of_fold in trials.items() if any(r.outcome == "pruned" for r in of_fold.values())}
    complete: list[Candidate] = []
    missing: list[str] = []
    for configuration, of_fold in ((c, of_fold) for c, of_fold in trials.items() if c not in pruned):
        finished = {fold: record for fold, record in of_fold.items() if record.outcome == "finished"}
        if unusable := sorted(folds - set(finished)):
            which = ", ".join(map(str, unusable))
            missing.append(f"{configuration.label} ({configuration.key}) has no usable fold {which}")
        else:
            aucs = tuple(finished[fold].metrics[OBJECTIVE] for fold in sorted(folds))
            complete.append(Candidate(configuration, aucs))
    if not complete:
        raise UnfinishedError("no configuration has finished all its folds")
    searched = {*modalities, *(configuration.model.modality for configuration in trials)}
    absent = searched - {candidate.modality for candidate in complete}
    return Ranking(
        # The key breaks ties, so that the order in which records were read does not matter.
        candidates=tuple(sorted(complete, key=lambda c: (-c.auc, c.configuration.key))),
        missing=(
            *(f"no {modality} configuration has finished" for modality in MODALITIES if modality in absent),
            *sorted(missing),
        ),
        notes=(f"{len(pruned)} pruned configuration(s) are left out",) if pruned else (),
    )


def folds_unseen_by_pruning(records: Iterable[CompletionRecord]) -> list[int]:
    """The folds on which no configuration was compared before it was pruned; all folds if none was pruned.

    Survivors were chosen on the others, so their results there are too good, whichever ensemble they serve in.
    """
    ended = list(records)
    pruned = {record.configuration for record in ended if record.outcome == "pruned"}
    seen = {record.identity.fold for record in ended if record.configuration in pruned and record.epochs > 0}
    return sorted({record.identity.fold for record in ended} - seen)


def searched_modalities(study: StudyConfig) -> tuple[Modality, ...]:
    """The modalities in the study's search space, or else that of its base model."""
    address = "model.modality"
    axis = study.space.sample.get(address)
    values = study.space.enumerated.get(address, getattr(axis, "choices", (study.model.modality,)))
    return tuple(modality for modality in MODALITIES if modality in values)


def allowed_baselines(settings: EnsembleConfig) -> list[Contender]:
    """Those that a study's ensemble may have as members beside networks (`table_member`, `linear_image`)."""
    table: list[Contender] = [] if settings.table_member == "none" else [TABLE]
    match settings.linear_image:
        case "none":
            return table
        case "alone":
            return [*table, IMAGE]
        case "with_table":
            return [*table, IMAGE_TABLE]


def select_configurations(
    selection: Selection,
    ranked: Sequence[Candidate],
    validation: Validation,
    folds: Sequence[int],
    weighting: Weighting,
) -> list[Contender]:
    """Select an ensemble's contenders by the validation patients of `folds`: configurations from `ranked` (best first),
    and the baselines that the study's ensemble may have."""
    baselines = allowed_baselines(validation.settings)
    match selection:
        case "best_per_modality":
            return [*best_per_modality(ranked, validation.settings.choice), *baselines]
        case "same_spec":
            auc = {each.configuration: each.auc for each in mean_over_repeats(ranked)}
            groups = per_spec(ranked, validation.settings.choice)
            # The most modalities, and among those the highest mean AUC over modalities.
            best = max(
                groups.values(),
                key=lambda group: (
                    len({c.model.modality for c in group}),
                    np.mean([auc[first] for first in {c.first_repeat: None for c in group}]),
                ),
            )
            return [*best, *baselines]
        case "greedy":
            return greedy(ranked, validation, folds, weighting)


def best_per_modality(ranked: Sequence[Candidate], choice: Choice = "best") -> list[Configuration]:
    """The best candidate of each modality that has one, with all its repeats (`training.repeat`).

    Repeats are compared by their mean. With `one_standard_error`, the best is the one with the fewest weights among
    those whose objective is within one standard error of the highest (Breiman et al. 1984, section 3.4); of equally
    many weights the better one.
    """
    repeats = _repeats(ranked)
    means = mean_over_repeats(ranked)
    chosen: list[Configuration] = []
    for modality in MODALITIES:
        own = [mean for mean in means if mean.modality == modality]
        if own:
            best = own[0] if choice == "best" else _simplest(own)
            group = [candidate.configuration for candidate in repeats[best.configuration]]
            chosen += sorted(group, key=lambda configuration: configuration.training.repeat)
    return chosen


def mean_over_repeats(ranked: Sequence[Candidate]) -> list[Candidate]:
    """One candidate for all repeats of a configuration (`training.repeat`), their mean on each fold; best first."""
    means = [Candidate(first, _fold_means(group)) for first, group in _repeats(ranked).items()]
    return sorted(means, key=lambda mean: -mean.auc)


def _repeats(ranked: Sequence[Candidate]) -> dict[Configuration, list[Candidate]]:
    """The candidates by what all repeats of it share."""
    repeats: dict[Configuration, list[Candidate]] = defaultdict(list)
    for candidate in ranked:
        repeats[candidate.configuration.first_repeat].append(candidate)
    return repeats


def _fold_means(repeats: Sequence[Candidate]) -> tuple[float, ...]:
    return tuple(fmean(of_fold) for of_fold in zip(*(candidate.aucs for candidate in repeats), strict=True))


def _simplest(ranked: Sequence[Candidate]) -> Candidate:
    from rlvo.models.cost import count_weights  # torch and MONAI: only for this rule

    best = ranked[0]
    as_good = [each for each in ranked if each.auc >= best.auc - (best.standard_error or 0.0)]
    return min(as_good, key=lambda each: count_weights(each.configuration.model))


def per_spec(ranked: Sequence[Candidate], choice: Choice = "best") -> dict[str, list[Configuration]]:
    """For every model spec, its best candidate of each modality: the rows of the paper's Table 3."""
    specs = sorted({candidate.spec for candidate in ranked})
    return {spec: best_per_modality([c for c in ranked if c.spec == spec], choice) for spec in specs}


def greedy(
    ranked: Sequence[Candidate], validation: Validation, folds: Sequence[int], weighting: Weighting
) -> list[Contender]:
    """Forward selection with replacement (Caruana et al. 2004), regardless of modality.

    Each round adds the configuration that makes the combined score's AUC, averaged over folds, highest; one that is
    added several times counts several times. The ensemble of the best round is returned. Ties go to the better ranked
    configuration and to the smaller ensemble. A stack would fit any candidate to these patients, so members of one are
    chosen by Youden's J. Baselines that the study's ensemble may have are further candidates, but not the first: alone
    they would be baselines.
    """
    weighting = "youden" if weighting == "stacked" else weighting
    contenders: list[Contender] = [candidate.configuration for candidate in ranked]
    contenders += allowed_baselines(validation.settings)
    evidence = [_Evidence.of(contenders, validation, fold) for fold in folds]
    chosen: list[int] = []
    best, best_auc = chosen, -1.0
    for _ in range(GREEDY_ROUNDS):
        # Rounded, so that nothing depends on the last bit of a mean.
        aucs = np.mean([of_fold.aucs(chosen, weighting) for of_fold in evidence], axis=0).round(12)
        aucs = aucs if chosen else aucs[: len(ranked)]
        chosen = [*chosen, int(aucs.argmax())]
        if aucs.max() > best_auc:
            best, best_auc = chosen, float(aucs.max())
    return by_modality(contenders[index] for index in sorted(best))


def by_modality(contenders: Iterable[Contender]) -> list[Contender]:
    """In the order in which an ensemble lists them: NCCT, CTA, BOTH, the baselines."""
    order: list[str] = [*MODALITIES, *LABELS]
    return sorted(contenders, key=lambda c: order.index(c if isinstance(c, str) else c.model.modality))


@dataclass(frozen=True)
class _Evidence:
    """All C candidates' predictions for the N validation patients of one fold."""

    label: np.ndarray
    probability: np.ndarray
    """[C, N]"""
    tpr: np.ndarray
    tnr: np.ndarray

    @classmethod
    def of(cls, contenders: Sequence[Contender], validation: Validation, fold: int) -> Self:
        table = validation.table(fold, contenders)
        members = [validation.fitted(fold, contender) for contender in contenders]
        return cls(
            label=table[LABEL].to_numpy() == 1,
            probability=np.stack([member.scaled(table[member.column]) for member in members]),
            tpr=np.array([member.rates[0] for member in members]),
            tnr=np.array([member.rates[1] for member in members]),
        )

    def aucs(self, chosen: Sequence[int], weighting: Weighting) -> np.ndarray:
        """AUCs [C] of the combined scores of `chosen` and each candidate, in the Mann-Whitney form."""
        rows = [[*chosen, candidate] for candidate in range(len(self.probability))]
        scores = np.stack([combine(weighting, self.probability[i], self.tpr[i], self.tnr[i]) for i in rows])
        # Rounded, so that equal scores stay tied in whatever order they were summed.
        ranks: np.ndarray = rankdata(scores.round(12), axis=1)
        positives, negatives = self.label.sum(), (~self.label).sum()
        above = ranks[:, self.label].sum(axis=1) - positives * (positives + 1) / 2
        return np.asarray(above / (positives * negatives))
