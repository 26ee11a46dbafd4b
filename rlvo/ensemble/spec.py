"""A frozen ensemble, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rlvo.config.base import Frozen
from rlvo.config.model import Configuration, Modality
from rlvo.ensemble.calibration import Calibrator
from rlvo.ensemble.member import MemberSpec
from rlvo.ensemble.voting import Tie, majority_vote
from rlvo.ensemble.weighting import Weighting, combine, undecided


class FoldSpec(Frozen):
    """The members of one fold and the threshold of their combined score. A member that stands twice counts twice."""

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
    calibration: Calibrator | None = None
    """From the margin to a probability."""
    notes: tuple[str, ...] = ()
    """What a user should know of it: a modality without members, a threshold no better than chance."""

    @property
    def members(self) -> tuple[MemberSpec, ...]:
        """Every member once, however often it counts."""
        return tuple(dict.fromkeys(member for fold in self.folds for member in fold.members))

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """What serves each fold, NCCT before CTA before BOTH; one that counts twice stands twice."""
        return tuple(member.configuration for member in self.folds[0].members)


@dataclass(frozen=True)
class EnsembleAnswer:
    """Answers for N patients; arrays [N].

    A fold one of whose members has no finite probability for a patient abstains: its weights and threshold hold for
    all its members together. The patient is answered where the vote is the same whatever those folds would have said,
    and gets a NaN `score` where it is not.
    """

    score: np.ndarray
    """Mean over folds of (combined score − threshold): a margin, not a probability."""
    rlvo: np.ndarray
    """The vote, 0/1. Means nothing where `score` is NaN."""
    votes: np.ndarray
    """Folds that voted positive, of `folds`."""
    folds: int
    abstained: np.ndarray
    """Folds that did not vote."""
    calibrated: np.ndarray
    """Probability of rLVO that goes with the score (see `ensemble.calibration`); NaN without a calibrator."""
    probability: dict[Modality, np.ndarray]
    """Mean over folds of each modality's members, by their count; only the modalities the ensemble has."""
    undecided: np.ndarray
    """Folds whose class-rate weights were 0/0 (METHOD: 0.5, flagged)."""


def apply(spec: EnsembleSpec, probabilities: Mapping[str, np.ndarray]) -> EnsembleAnswer:
    """What the ensemble answers, given the probabilities [N] of each of its members, by member key."""
    thresholds = np.array([[fold.threshold] for fold in spec.folds])
    margins = np.stack([fold.score(probabilities, spec.weighting) for fold in spec.folds]) - thresholds
    unfounded = np.stack([fold.undecided(probabilities) for fold in spec.folds]) & (spec.weighting == "class_rates")
    voted = np.isfinite(margins)
    # Margins lie within ±1: what those that abstained could have said at the least and at the most.
    least, most = (np.where(voted, margins, bound) for bound in (-1.0, 1.0))
    rlvo = majority_vote(least >= 0, least, spec.tie)
    is_settled = rlvo == majority_vote(most >= 0, most, spec.tie)
    # Without a fold to average over nothing is settled either.
    mean = margins.sum(axis=0, where=voted) / np.maximum(voted.sum(axis=0), 1)
    score = np.where(is_settled, mean, np.nan)
    return EnsembleAnswer(
        score=score,
        rlvo=rlvo,
        votes=(least >= 0).sum(axis=0),
        folds=len(spec.folds),
        abstained=(~voted).sum(axis=0),
        calibrated=np.full_like(score, np.nan) if spec.calibration is None else spec.calibration.probability(score),
        probability={
            c.model.modality: _mean_over_folds(spec, c.model.modality, probabilities) for c in spec.configurations
        },
        undecided=unfounded.sum(axis=0),
    )


def _mean_over_folds(spec: EnsembleSpec, modality: Modality, probabilities: Mapping[str, np.ndarray]) -> np.ndarray:
    members = [member for fold in spec.folds for member in fold.members if member.modality == modality]
    return np.mean([np.asarray(probabilities[member.key], float) for member in members], axis=0)
