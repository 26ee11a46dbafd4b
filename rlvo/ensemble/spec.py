"""A frozen ensemble, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rlvo.config.base import Frozen
from rlvo.config.model import Configuration, Modality
from rlvo.ensemble.member import MemberSpec
from rlvo.ensemble.voting import Tie, majority_vote
from rlvo.ensemble.weighting import Weighting, combine, undecided


class FoldSpec(Frozen):
    """The members of one fold and the threshold of their combined score."""

    fold: int
    members: tuple[MemberSpec, ...]
    threshold: float
    better_than_chance: bool

    def score(self, probabilities: Mapping[str, np.ndarray], weighting: Weighting) -> np.ndarray:
        """Combined score [N] of the members' probabilities [N], by member key."""
        return combine(weighting, *self._weighed(probabilities))

    def undecided(self, probabilities: Mapping[str, np.ndarray]) -> np.ndarray:
        """[N] bool: where class-rate weights are 0/0 and the score is 0.5 without evidence."""
        return undecided(*self._weighed(probabilities))

    def _weighed(self, probabilities: Mapping[str, np.ndarray]) -> tuple[np.ndarray, list[float], list[float]]:
        stacked = np.stack([np.asarray(probabilities[member.key], float) for member in self.members])
        return stacked, [member.tpr for member in self.members], [member.tnr for member in self.members]


class EnsembleSpec(Frozen):
    """Members, weights and thresholds: one vote a fold. Names no patient."""

    folds: tuple[FoldSpec, ...]
    weighting: Weighting
    tie: Tie
    split_hash: str
    data_hash: str
    notes: tuple[str, ...] = ()
    """What a user should know of it: a modality without members, a threshold no better than chance."""

    @property
    def members(self) -> tuple[MemberSpec, ...]:
        return tuple(member for fold in self.folds for member in fold.members)

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """One a modality: NCCT, CTA, BOTH, as far as the ensemble has them."""
        return tuple(member.configuration for member in self.folds[0].members)


@dataclass(frozen=True)
class EnsembleAnswer:
    """Answers for N patients; arrays [N]. A patient any member has no finite probability for gets a NaN `score`."""

    score: np.ndarray
    """Mean over folds of (combined score − threshold): a margin, not a probability."""
    rlvo: np.ndarray
    """The vote, 0/1. Means nothing where `score` is NaN."""
    votes: np.ndarray
    """Folds that voted positive, of `folds`."""
    folds: int
    probability: dict[Modality, np.ndarray]
    """Mean over folds of each modality's members; only the modalities the ensemble has."""
    undecided: np.ndarray
    """Folds whose class-rate weights were 0/0 (METHOD: 0.5, flagged)."""


def apply(spec: EnsembleSpec, probabilities: Mapping[str, np.ndarray]) -> EnsembleAnswer:
    """What the ensemble answers, given the probabilities [N] of each of its members, by member key."""
    thresholds = np.array([[fold.threshold] for fold in spec.folds])
    scores = np.stack([fold.score(probabilities, spec.weighting) for fold in spec.folds])
    margins = scores - thresholds
    votes = scores >= thresholds
    unfounded = np.stack([fold.undecided(probabilities) for fold in spec.folds]) & (spec.weighting == "class_rates")
    return EnsembleAnswer(
        score=margins.mean(axis=0),
        rlvo=majority_vote(votes, margins, spec.tie),
        votes=votes.sum(axis=0),
        folds=len(spec.folds),
        probability={
            c.model.modality: _mean_over_folds(spec, c.model.modality, probabilities) for c in spec.configurations
        },
        undecided=unfounded.sum(axis=0),
    )


def _mean_over_folds(spec: EnsembleSpec, modality: Modality, probabilities: Mapping[str, np.ndarray]) -> np.ndarray:
    rows = [np.asarray(probabilities[member.key], float) for member in spec.members if member.modality == modality]
    return np.mean(rows, axis=0)
