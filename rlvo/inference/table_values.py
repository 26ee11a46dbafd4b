"""What one patient's table values do to an ensemble's answer, and where they lie among the training patients'."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit

from rlvo.cohort.encoding import TabularEncoder
from rlvo.cohort.variables import source_columns
from rlvo.ensemble.spec import TABLE, BaselineMember, EnsembleAnswer, Member, MemberSpec, apply_ensemble
from rlvo.explain.decision import coalition_shapley
from rlvo.explain.fixed_image import FixedImages, FixedLinear
from rlvo.inference.description import Variant
from rlvo.inference.training_cohort import CohortSummary, predictor_values

ROUNDING = 1e-6
"""Effects below it are those of single precision."""


@dataclass(frozen=True)
class TableValue:
    """One predictor of one patient."""

    predictor: str
    value: float | str | None
    """As in the table; None if it is missing and was imputed."""
    typical: float | str
    """The training patients' median or most frequent value (the median over the folds')."""
    contribution: float
    """Shapley value: what the patient's own value adds to the score, in place of the typical one."""
    score_if_typical: float
    """The score if this value alone were typical."""
    rlvo_if_typical: int
    """The answer, 0 or 1, if this value alone were typical."""
    lowest: float | None = None
    """The least of the training patients' values; None if it isn't continuous."""
    highest: float | None = None
    percentiles: tuple[int, int] | None = None
    """Between which percentiles of the training patients the value lies; 0 and 100: beyond those that are known."""
    same: int | None = None
    """How many training patients have this value, if it is a category."""
    known: int | None = None
    """In how many training patients it was recorded."""


@dataclass(frozen=True, eq=False)
class TableGame:
    """An ensemble's answer for one patient's images as a function of whose table values it is given."""

    variant: Variant
    fixed: Mapping[str, float]
    """What the members that do not read the table say, by member key."""
    readers: Mapping[Member, Callable[[np.ndarray], np.ndarray]]
    """The members that do: what gives their logits [M] for encoded rows [M, T] and the patient's image."""
    own: Mapping[int, np.ndarray]
    """The patient's encoded row [T], by fold; `typical`: that of the fold's typical patient."""
    typical: Mapping[int, np.ndarray]

    def answer(self, is_own: np.ndarray) -> EnsembleAnswer:
        """The answers for M tables, in which each predictor's value is the patient's own or typical: bool [M, P]."""
        groups = next(iter(self.variant.encoders.values())).feature_groups
        owner = np.empty(sum(map(len, groups.values())), int)
        for number, features in enumerate(groups.values()):
            owner[list(features)] = number
        tables = {fold: np.where(is_own[:, owner], self.own[fold], self.typical[fold]) for fold in self.own}
        said = {key: np.full(len(is_own), probability) for key, probability in self.fixed.items()}
        for member, logits in self.readers.items():
            said[member.key] = expit(logits(tables[member.fold]))
        return apply_ensemble(self.variant.spec, said)


def table_game(
    variant: Variant,
    row: pd.DataFrame,
    said: Mapping[str, float],
    image: Callable[[MemberSpec], FixedImages],
) -> TableGame:
    """Set up the game for one patient.

    Args:
        row: the patient's typed row.
        said: every member's probability, by member key.
        image: runs a network on the patient's image.
    """
    readers: dict[Member, Callable[[np.ndarray], np.ndarray]] = {}
    encoded = {fold: encoder.transform(row) for fold, encoder in variant.encoders.items()}
    for member in variant.spec.members:
        if isinstance(member, BaselineMember):
            if member.origin == TABLE:
                readers[member] = variant.table_models[member.fold].logits
            elif (of_table := variant.image_models[member.fold].coefficients) is not None:
                readers[member] = FixedLinear.of(of_table, [said[member.key]], encoded[member.fold]).of_one(0)
        elif member.configuration.model.fusion != "none":
            readers[member] = image(member).of_one(0)
    others = {member.key: said[member.key] for member in variant.spec.members if member not in readers}
    own = {fold: rows[0] for fold, rows in encoded.items()}
    typical = {fold: encoder.transform(typical_row(encoder))[0] for fold, encoder in variant.encoders.items()}
    return TableGame(variant, others, readers, own, typical)


def typical_row(encoder: TabularEncoder) -> pd.DataFrame:
    """A row with the median or most frequent value of every column, over the fold's training patients."""
    return pd.DataFrame([{name: encoder.fill[name] for name in source_columns(encoder.predictors)}])


def table_values(
    game: TableGame, row: pd.DataFrame, summary: CohortSummary | None, *, seed: int = 0
) -> tuple[float, tuple[TableValue, ...]]:
    """The score with typical values throughout, and what each of the patient's does to it, the largest effect first.

    Args:
        row: the patient's typed row.
        summary: of the training patients, if the model has one.
    """
    predictors, encoders = game.variant.predictors, tuple(game.variant.encoders.values())
    contributions = coalition_shapley(lambda is_own: game.answer(is_own).score, len(predictors), seed=seed)
    contributions[np.abs(contributions) < ROUNDING] = 0
    single = game.answer(~np.eye(len(predictors), dtype=bool))
    nothing = game.answer(np.zeros((1, len(predictors)), bool))
    imputed = encoders[0].imputed(row)
    values = []
    for number, predictor in enumerate(predictors):
        middle = [predictor_values(typical_row(encoder), predictor).iloc[0] for encoder in encoders]
        ranges = [(each.extremes or each.bounds)[predictor] for each in encoders if predictor in each.bounds]
        cell = predictor_values(row, predictor).iloc[0]
        value = None if predictor in imputed or pd.isna(cell) else cell if isinstance(cell, str) else float(cell)
        continuous = summary.continuous.get(predictor) if summary else None
        values.append(
            TableValue(
                predictor,
                value,
                pd.Series(middle).mode()[0] if isinstance(middle[0], str) else float(np.median(middle)),
                float(contributions[number]),
                float(single.score[number]),
                int(single.rlvo[number]),
                lowest=min(low for low, _ in ranges) if ranges else None,
                highest=max(high for _, high in ranges) if ranges else None,
                percentiles=continuous.between(value) if continuous and isinstance(value, float) else None,
                same=summary.same(predictor, value) if summary and value is not None else None,
                known=summary.known(predictor) if summary else None,
            )
        )
    return float(nothing.score[0]), tuple(sorted(values, key=lambda value: -abs(value.contribution)))
