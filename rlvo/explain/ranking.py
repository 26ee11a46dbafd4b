"""The predictors of a model ranked by three measures of importance, side by side."""

from dataclasses import dataclass

import pandas as pd

MEASURES = {"absolute_contribution": "rank_contribution", "auc_drop": "rank_permutation", "shapley": "rank_shapley"}
"""The columns of the measures, and of the ranks by them."""


@dataclass(frozen=True, eq=False)
class VariableImportance:
    """How important each predictor is to an ensemble, on the validation patients of its folds.

    The folds' best epochs, weights and thresholds were chosen on the same patients.
    """

    table: pd.DataFrame
    """See `rank_predictors`."""
    individual: pd.DataFrame
    """One row per validation patient, one column per predictor: the shares of its contributions."""
    scale: pd.Series
    """By predictor: the part of `absolute_contribution` that acts through DAFT's scale (mean of absolutes)."""
    shift: pd.Series
    """The part that acts through the shift."""
    perfusion: tuple[float, float]
    """Mean and SD of the loss of AUC if all CT perfusion variables are shuffled together; NaN without any."""
    members: tuple[str, ...]
    """Keys of the members that read the table and have a say."""

    @property
    def agreement(self) -> pd.DataFrame:
        """Spearman's rank correlation between the measures, 3×3; NaN where a measure does not tell predictors apart."""
        return agreement(self.table)


def rank_predictors(absolute_contribution: pd.Series, auc_drops: pd.DataFrame, shapley: pd.DataFrame) -> pd.DataFrame:
    """The three measures and the ranks by them, the most important predictor first.

    Args:
        absolute_contribution: by predictor; NaN throughout if no member has a scale or a shift.
        auc_drops: one row per fold and shuffle, one column per predictor.
        shapley: Shapley values, one row per patient and member, one column per predictor.

    Returns:
        Index `predictor`; `absolute_contribution`, `auc_drop` (mean) and `auc_drop_sd`, `shapley` (mean of absolute
        values), `rank_contribution`, `rank_permutation`, `rank_shapley` (1 is the most important; ties share the mean
        of their ranks), and `mean_rank`, by which rows are sorted.
    """
    table = pd.DataFrame(
        {
            "absolute_contribution": absolute_contribution,
            "auc_drop": auc_drops.mean(),
            "auc_drop_sd": auc_drops.std(),
            "shapley": shapley.abs().mean(),
        }
    )
    ranks = table[list(MEASURES)].rank(ascending=False).rename(columns=MEASURES)
    ranked = table.join(ranks.assign(mean_rank=ranks.mean(axis=1)))
    return ranked.sort_values("mean_rank", kind="stable").rename_axis("predictor")


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation between the measures of a table of `rank_predictors`, 3×3."""
    return table[list(MEASURES)].corr(method="spearman")
