"""Members and folds of an ensemble, fitted on stored validation predictions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pandas as pd

from rlvo.config.model import Configuration
from rlvo.config.sections import EnsembleConfig
from rlvo.ensemble.calibration import Platt, fit_calibrator, log_odds
from rlvo.ensemble.spec import (
    TABLE,
    BaselineMember,
    Contender,
    EnsembleSpec,
    FoldSpec,
    Member,
    MemberSpec,
    baseline_key,
)
from rlvo.ensemble.weighting import Weighting, fit_stack
from rlvo.errors import RlvoError
from rlvo.evaluation.thresholds import better_than_chance, youden_threshold
from rlvo.training.records import member_key

LABEL = "label"


@dataclass(frozen=True)
class Validation:
    """Each member's predictions for the validation patients of its fold."""

    members: Mapping[tuple[int, str], pd.DataFrame]
    """By fold and member key: `label` and `probability`, index patient, sorted."""
    _fitted: dict[tuple[int, str], Member] = field(default_factory=dict, init=False, repr=False)
    """Members that were fitted already: one member serves in many of a study's ensembles."""
    settings: EnsembleConfig = field(default_factory=EnsembleConfig)
    """How members are fitted: on which scale, and whether those that are no better than chance abstain."""

    @classmethod
    def of(cls, predictions: pd.DataFrame, settings: EnsembleConfig | None = None) -> Self:
        """Take the validation rows of stored predictions (columns of `rlvo.evaluation.predictions`)."""
        rows = predictions.loc[predictions["split"] == "validation"]
        groups = rows.set_index("patient").groupby(["fold", "member"])[[LABEL, "probability"]]
        tables = {(int(fold), str(member)): own.sort_index() for (fold, member), own in groups}  # type: ignore[call-overload]
        return cls(tables, settings=settings or EnsembleConfig())

    @classmethod
    def of_members(cls, spec: EnsembleSpec, predictions: pd.DataFrame) -> Self:
        """The same of an ensemble's own members: a study may have thousands of others."""
        own = {_member_key(contender, fold.fold) for fold in spec.folds for contender in spec.contenders}
        return cls.of(predictions[predictions["member"].isin(own)])

    def without(self, absent: Mapping[Configuration, tuple[str, ...]]) -> Self:
        """What the same members say if some configurations are asked without these channels."""
        members = dict(self.members)
        for configuration, channels in absent.items():
            for fold in {fold for fold, _ in members}:
                own, asked = (member_key(configuration, fold, lacking) for lacking in ((), channels))
                if (fold, own) in members:
                    members[fold, own] = self.members[fold, asked]
        return replace(self, members=members)

    def table(self, fold: int, contenders: Iterable[Contender]) -> pd.DataFrame:
        """A fold's patients, sorted: `label`, and a column of probabilities per contender (`MemberSpec.column`).

        Raises RlvoError if the members do not cover the same patients once each, with the same labels.
        """
        label, columns = None, {}
        for contender in dict.fromkeys(contenders):
            key = _member_key(contender, fold)
            where, own = f"member {key}", self.members.get((fold, key))
            if own is None:
                fix = "Build the ensemble again" if isinstance(contender, str) else "Run the search again"
                raise RlvoError("its validation predictions are missing", where=where, fix=fix)
            label = own[LABEL] if label is None else label
            if not own.index.is_unique or not own.index.equals(label.index):
                raise RlvoError("the members of a fold were not validated on the same patients", where=where)
            if not (own[LABEL] == label).all():
                raise RlvoError("the members of a fold disagree on its patients' labels", where=where)
            columns[_column(contender)] = own["probability"]
        return pd.DataFrame({LABEL: label, **columns})

    def fitted(self, fold: int, contender: Contender) -> Member:
        """A contender's member in a fold, fitted on the fold's validation patients."""
        key = fold, _member_key(contender, fold)
        if key not in self._fitted:
            self._fitted[key] = fit_member(fold, contender, self.table(fold, [contender]), self.settings)
        return self._fitted[key]

    def networks_alone(self) -> Self:
        """The same, for ensembles of networks alone."""
        return replace(self, settings=networks_alone(self.settings))


def networks_alone(settings: EnsembleConfig) -> EnsembleConfig:
    """The same settings for an ensemble without baselines."""
    return settings.model_copy(update={"table_member": "none", "linear_image": "none"})


def _member_key(contender: Contender, fold: int) -> str:
    return baseline_key(contender, fold) if isinstance(contender, str) else member_key(contender, fold)


def _column(contender: Contender) -> str:
    return contender if isinstance(contender, str) else contender.key


def fit_member(fold: int, contender: Contender, table: pd.DataFrame, settings: EnsembleConfig | None = None) -> Member:
    """Fit a member's scale and Youden's threshold to a table of `Validation`, and measure its rates there.

    Args:
        settings: on which scale, and whether it abstains if no threshold is better than chance.
    """
    settings = settings or EnsembleConfig()
    label, probability = table[LABEL].to_numpy(), table[_column(contender)].to_numpy()
    scale = _fit_scale(label, probability) if settings.member_scale == "platt" else None
    if scale is not None:
        probability = scale.probability(log_odds(probability))
    threshold = youden_threshold(label, probability)
    positive, has_signal = probability >= threshold, better_than_chance(label, probability)
    fitted: dict[str, Any] = {
        "fold": fold,
        "threshold": threshold,
        "tpr": float(positive[label == 1].mean()),
        "tnr": float((~positive)[label == 0].mean()),
        "better_than_chance": has_signal,
        "abstains": settings.chance_members != "count" and not has_signal,
        "scale": scale,
    }
    if isinstance(contender, str):
        return BaselineMember(kind="ridge" if contender == TABLE else contender, **fitted)
    return MemberSpec(configuration=contender, **fitted)


def _fit_scale(label: np.ndarray, probability: np.ndarray) -> Platt:
    scale = fit_calibrator(label, log_odds(probability), "platt")
    assert isinstance(scale, Platt)
    return scale


def fit_fold(fold: int, members: Iterable[Member], table: pd.DataFrame, weighting: Weighting) -> FoldSpec:
    """Combine fitted members, and fit the threshold of their combined score to a table of `Validation`."""
    unfitted = FoldSpec(fold=fold, members=tuple(members), threshold=0.0, better_than_chance=False)
    label = table[LABEL].to_numpy()
    if weighting == "stacked":
        own = np.stack([each.scaled(table[each.column]) for each in unfitted.members])
        stack = fit_stack(label, own, [not each.abstains for each in unfitted.members])
        unfitted = unfitted.model_copy(update={"stack": stack})
    score = _combined_score(unfitted, table, weighting)
    fitted = {"threshold": youden_threshold(label, score), "better_than_chance": better_than_chance(label, score)}
    return unfitted.model_copy(update=fitted)


def score_patients(fold: FoldSpec, table: pd.DataFrame, weighting: Weighting) -> pd.DataFrame:
    """Score the patients of a table of `Validation`: index patient; `fold`, `label`, `score` (the margin), `vote`."""
    score = _combined_score(fold, table, weighting)
    vote = (score >= fold.threshold).astype(int)
    return table[[LABEL]].assign(fold=fold.fold, score=score - fold.threshold, vote=vote)


def _combined_score(fold: FoldSpec, table: pd.DataFrame, weighting: Weighting) -> np.ndarray:
    return fold.score({each.key: table[each.column].to_numpy() for each in fold.members}, weighting)
