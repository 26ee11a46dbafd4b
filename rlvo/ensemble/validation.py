"""Stored validation predictions as the builder reads them: a table a fold, a column a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from rlvo.config.model import Configuration
from rlvo.ensemble.member import MemberSpec, member_key
from rlvo.errors import RlvoError
from rlvo.evaluation.thresholds import better_than_chance, youden_threshold

LABEL = "label"


@dataclass(frozen=True)
class Validation:
    """What each member said of its fold's validation patients."""

    members: Mapping[tuple[int, str], pd.DataFrame]
    """By fold and member key: `label` and `probability`, index patient, sorted."""
    _fitted: dict[tuple[int, str], MemberSpec] = field(default_factory=dict, init=False, repr=False)
    """Members that were fitted before: a member stands in many of a study's ensembles."""

    @classmethod
    def of(cls, predictions: pd.DataFrame) -> Validation:
        """Of stored predictions, columns of `rlvo.evaluation.predictions`."""
        rows = predictions.loc[predictions["split"] == "validation"]
        groups = rows.set_index("patient").groupby(["fold", "member"])[[LABEL, "probability"]]
        tables = {(int(fold), str(member)): own.sort_index() for (fold, member), own in groups}  # type: ignore[call-overload]
        return cls(tables)

    def table(self, fold: int, configurations: Iterable[Configuration]) -> pd.DataFrame:
        """A fold's patients, sorted: `label`, and each configuration's probabilities under its key.

        Raises RlvoError where the members do not cover the same patients once each, with the same labels.
        """
        label, columns = None, {}
        for configuration in dict.fromkeys(configurations):
            key = member_key(configuration, fold)
            where, own = f"member {key}", self.members.get((fold, key))
            if own is None:
                raise RlvoError("its validation predictions are missing", where=where, fix="Run the search again")
            label = own[LABEL] if label is None else label
            if not own.index.is_unique or not own.index.equals(label.index):
                raise RlvoError("the members of a fold were not validated on the same patients", where=where)
            if not (own[LABEL] == label).all():
                raise RlvoError("the members of a fold disagree on its patients' labels", where=where)
            columns[configuration.key] = own["probability"]
        return pd.DataFrame({LABEL: label, **columns})

    def fitted(self, fold: int, configuration: Configuration) -> MemberSpec:
        """The fold's member of a configuration, fitted on its own validation patients."""
        key = fold, member_key(configuration, fold)
        if key not in self._fitted:
            self._fitted[key] = fit_member(fold, configuration, self.table(fold, [configuration]))
        return self._fitted[key]

    def pooled(self, folds: Sequence[int], configurations: Iterable[Configuration]) -> pd.DataFrame:
        """The tables of several folds as one: each patient by the members of its own fold."""
        chosen = tuple(configurations)
        return pd.concat([self.table(fold, chosen) for fold in folds])


def fit_member(fold: int, configuration: Configuration, table: pd.DataFrame) -> MemberSpec:
    """A member's Youden threshold, and its rates at it."""
    label, probability = table[LABEL].to_numpy(), table[configuration.key].to_numpy()
    threshold = youden_threshold(label, probability)
    positive = probability >= threshold
    return MemberSpec(
        configuration=configuration,
        fold=fold,
        threshold=threshold,
        tpr=float(positive[label == 1].mean()),
        tnr=float((~positive)[label == 0].mean()),
        better_than_chance=better_than_chance(label, probability),
    )
