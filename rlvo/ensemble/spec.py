"""A frozen ensemble, and its answers."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from rlvo.config.base import Frozen, content_hash
from rlvo.config.model import Configuration, Modality
from rlvo.ensemble.calibration import Calibrator, Platt, log_odds
from rlvo.ensemble.voting import Tie, majority_vote
from rlvo.ensemble.weighting import Stack, Weighting, combine, undecided
from rlvo.training.records import linear_member_key, member_key
from rlvo.training.table_model import table_member_key


class _Fitted(Frozen):
    """What was fitted to a member's own validation patients: its threshold, rates and scale."""

    fold: int
    threshold: float
    """Youden's threshold of the member's validation probabilities, on its scale."""
    tpr: float
    """True positive rate at that threshold, on the same patients; `tnr`, true negative rate."""
    tnr: float
    better_than_chance: bool
    """False if no threshold separates the classes better than chance."""
    abstains: bool = False
    """Whether it has no weight in its fold, because it is no better than chance."""
    scale: Platt | None = None
    """Takes the log-odds of its probabilities to those that its validation patients bear out; None: they stay."""
    absent: tuple[str, ...] = ()
    """The channels that it is asked without (`training.modality_dropout`), and was fitted without."""

    @model_serializer(mode="wrap")
    def _leave_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out fields that older ensembles do not have, so that their hashes stay what they were."""
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if value or name not in ("abstains", "scale", "absent")}

    def scaled(self, probabilities: ArrayLike) -> np.ndarray:
        """The member's probabilities [N] as its fold combines them; NaN stays NaN."""
        p = np.asarray(probabilities, float)
        return p if self.scale is None else self.scale.probability(log_odds(p))

    @property
    def rates(self) -> tuple[float, float]:
        """TPR and TNR as weights: none if it abstains."""
        return (0.0, 0.0) if self.abstains else (self.tpr, self.tnr)


class MemberSpec(_Fitted):
    """A network: a trial (configuration × fold)."""

    configuration: Configuration

    @property
    def key(self) -> str:
        """The member's name in predictions and files."""
        return member_key(self.configuration, self.fold)

    @property
    def origin(self) -> Configuration:
        """What it is a fold of."""
        return self.configuration

    @property
    def column(self) -> str:
        """Its column in a table of validation patients."""
        return self.configuration.key

    @property
    def label(self) -> str:
        """Short name for people."""
        return self.configuration.label

    @property
    def modality(self) -> Modality:
        return self.configuration.model.modality

    @property
    def channels(self) -> tuple[str, ...]:
        """The volumes that it needs."""
        return tuple(name for name in self.configuration.model.channels if name not in self.absent)


Baseline = Literal["table", "linear_image", "linear_image_table"]
"""What can be a member beside networks: the ridge model of the table, and the linear model of the volumes, without and
with the table."""
TABLE: Literal["table"] = "table"
IMAGE: Literal["linear_image"] = "linear_image"
IMAGE_TABLE: Literal["linear_image_table"] = "linear_image_table"
LABELS: dict[Baseline, str] = {TABLE: "table, ridge", IMAGE: "linear image", IMAGE_TABLE: "linear image + table"}
"""In the order in which an ensemble lists them, after its networks."""
Contender = Configuration | Baseline
"""What an ensemble can choose: a network's configuration, or a baseline."""


class BaselineMember(_Fitted):
    """A baseline that is fitted to the fold's training patients; its plain numbers stand beside the fold's encoder.

    `training.table_model` and `training.linear_model` answer for patients.
    """

    kind: Literal["ridge", "linear_image", "linear_image_table"] = "ridge"
    """ridge: that of the table."""

    @property
    def key(self) -> str:
        """As `MemberSpec.key`."""
        return baseline_key(self.origin, self.fold)

    @property
    def origin(self) -> Baseline:
        """As `MemberSpec.origin`."""
        return TABLE if self.kind == "ridge" else self.kind

    @property
    def column(self) -> str:
        """As `MemberSpec.column`."""
        return self.origin

    @property
    def label(self) -> str:
        """As `MemberSpec.label`."""
        return LABELS[self.origin]

    @property
    def reads_table(self) -> bool:
        return self.origin != IMAGE


def baseline_key(baseline: Baseline, fold: int) -> str:
    """The key of a baseline's member in a fold."""
    if baseline == TABLE:
        return table_member_key(fold)
    return linear_member_key(fold, with_table=baseline == IMAGE_TABLE)


Member = MemberSpec | BaselineMember


class FoldSpec(Frozen):
    """The members of one fold and the threshold of their combined score. A member listed twice counts twice."""

    fold: int
    members: tuple[Member, ...]
    threshold: float
    better_than_chance: bool
    stack: Annotated[Stack | None, Field(exclude_if=operator.not_)] = None
    """Combines the members if the ensemble is stacked."""

    @property
    def networks(self) -> tuple[MemberSpec, ...]:
        """The members that look at images."""
        return tuple(member for member in self.members if isinstance(member, MemberSpec))

    def score(self, probabilities: Mapping[str, np.ndarray], weighting: Weighting) -> np.ndarray:
        """Combine the members' probabilities [N], given by member key, into scores [N]."""
        own, tpr, tnr = self._stacked(probabilities)
        return combine(weighting, own, tpr, tnr) if self.stack is None else self.stack.score(own)

    def undecided(self, probabilities: Mapping[str, np.ndarray]) -> np.ndarray:
        """Whether class-rate weights are 0/0, so that the score is 0.5 without evidence: bool [N]."""
        return undecided(*self._stacked(probabilities))

    def _stacked(self, probabilities: Mapping[str, np.ndarray]) -> tuple[np.ndarray, list[float], list[float]]:
        stacked = np.stack([member.scaled(probabilities[member.key]) for member in self.members])
        tpr, tnr = zip(*(member.rates for member in self.members), strict=True)
        return stacked, [*tpr], [*tnr]


class EnsembleSpec(Frozen):
    """Members, weights and thresholds: one vote per fold. Names no patient."""

    folds: tuple[FoldSpec, ...]
    weighting: Weighting
    tie: Tie
    split_hash: str
    data_hash: str
    calibration: Calibrator | None = None
    """Turns the margin into a probability."""
    notes: tuple[str, ...] = ()
    """What users should know: a modality without members, a threshold no better than chance."""

    @property
    def members(self) -> tuple[Member, ...]:
        """Every member, listed once however often it counts."""
        return tuple(dict.fromkeys(member for fold in self.folds for member in fold.members))

    @property
    def networks(self) -> tuple[MemberSpec, ...]:
        """Those of the members that look at images."""
        return tuple(member for member in self.members if isinstance(member, MemberSpec))

    @property
    def has_table(self) -> bool:
        """Whether the table's model is a member."""
        return TABLE in self.contenders

    @property
    def member_scale(self) -> Literal["none", "platt"]:
        """As `ensemble.member_scale` of the study."""
        return "platt" if any(member.scale for member in self.members) else "none"

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """The configurations of each fold, NCCT before CTA before BOTH; one that counts twice is listed twice."""
        return tuple(member.configuration for member in self.folds[0].networks)

    @property
    def linear_image(self) -> Baseline | None:
        """The linear model of the volumes, if it is a member."""
        return next((each for each in (IMAGE, IMAGE_TABLE) if each in self.contenders), None)

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """What each fold has a member of: `configurations`, and the baselines as often as they count."""
        return tuple(member.origin for member in self.folds[0].members)

    @property
    def reads_table(self) -> bool:
        """Whether any member looks at the clinical table for more than the affected side."""
        fuses = any(configuration.model.fusion != "none" for configuration in self.configurations)
        return fuses or self.has_table or self.linear_image == IMAGE_TABLE


@dataclass(frozen=True)
class EnsembleAnswer:
    """Answers for N patients; arrays are [N].

    A fold abstains from a patient if one of its members has no finite probability, because weights and threshold hold
    only for all its members together. The patient gets an answer if the vote does not depend on what those folds would
    have said, and otherwise a NaN `score`.
    """

    score: np.ndarray
    """Mean over folds of (combined score − threshold): a margin, not a probability."""
    rlvo: np.ndarray
    """The vote, 0 or 1. Meaningless if `score` is NaN."""
    votes: np.ndarray
    """Number of folds that voted positive, out of `folds`."""
    folds: int
    abstained: np.ndarray
    """Number of folds that did not vote."""
    calibrated: np.ndarray
    """Probability of rLVO at this score (see `ensemble.calibration`); NaN without a calibrator."""
    probability: dict[Modality, np.ndarray]
    """Mean over folds and members of each modality the ensemble has, on their scale; a member that counts twice weighs
    twice."""
    undecided: np.ndarray
    """Number of folds whose class-rate weights were 0/0, so that their score is 0.5."""


def fold_margins(spec: EnsembleSpec, probabilities: Mapping[str, np.ndarray]) -> np.ndarray:
    """Each fold's combined score minus its threshold, [K, N], given the members' probabilities [N] by member key."""
    thresholds = np.array([[fold.threshold] for fold in spec.folds])
    scores = np.stack([fold.score(probabilities, spec.weighting) for fold in spec.folds])
    return np.asarray(scores - thresholds)


def first_names(specs: Mapping[str, EnsembleSpec]) -> dict[str, str]:
    """The first name of each ensemble: another one if it was declared before under that, down to the last threshold."""
    first: dict[str, str] = {}
    return {name: first.setdefault(content_hash(spec), name) for name, spec in specs.items()}


def apply_ensemble(spec: EnsembleSpec, probabilities: Mapping[str, np.ndarray]) -> EnsembleAnswer:
    """Answer for N patients, given the probabilities [N] of each of the ensemble's members, by member key."""
    margins = fold_margins(spec, probabilities)
    unfounded = np.stack([fold.undecided(probabilities) for fold in spec.folds]) & (spec.weighting == "class_rates")
    voted = np.isfinite(margins)
    # Margins lie within ±1: the bounds of what the abstaining folds could have said.
    least, most = (np.where(voted, margins, bound) for bound in (-1.0, 1.0))
    rlvo = majority_vote(least >= 0, least, spec.tie)
    is_settled = rlvo == majority_vote(most >= 0, most, spec.tie)
    # If no fold voted there is nothing to average, and nothing is settled either.
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
    members = [member for fold in spec.folds for member in fold.networks if member.modality == modality]
    return np.asarray(np.mean([member.scaled(probabilities[member.key]) for member in members], axis=0))
