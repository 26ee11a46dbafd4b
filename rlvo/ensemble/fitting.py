"""The combined threshold of a fold's members, and the margins it gives."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from rlvo.ensemble.member import MemberSpec
from rlvo.ensemble.spec import FoldSpec
from rlvo.ensemble.validation import LABEL
from rlvo.ensemble.weighting import Weighting
from rlvo.evaluation.thresholds import better_than_chance, youden_threshold


def fit_fold(fold: int, members: Iterable[MemberSpec], table: pd.DataFrame, weighting: Weighting) -> FoldSpec:
    """Members of a fold with the threshold of their combined score, fitted on a table of `Validation`."""
    unfitted = FoldSpec(fold=fold, members=tuple(members), threshold=0.0, better_than_chance=False)
    label, score = table[LABEL].to_numpy(), unfitted.score(by_member(unfitted, table), weighting)
    fitted = {"threshold": youden_threshold(label, score), "better_than_chance": better_than_chance(label, score)}
    return unfitted.model_copy(update=fitted)


def margins(fold: FoldSpec, table: pd.DataFrame, weighting: Weighting) -> pd.DataFrame:
    """A fold's patients scored by it: index patient; `fold`, `label`, `score` (the margin), `vote`."""
    score = fold.score(by_member(fold, table), weighting)
    return table[[LABEL]].assign(
        fold=fold.fold, score=score - fold.threshold, vote=(score >= fold.threshold).astype(int)
    )


def by_member(fold: FoldSpec, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """The table's probabilities [N] by member key."""
    return {member.key: table[member.configuration.key].to_numpy() for member in fold.members}
