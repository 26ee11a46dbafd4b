"""Permutation importance: what the AUC loses if a predictor is shuffled among the patients (Breiman 2001)."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from rlvo.evaluation.metrics import auc_components, labels_and_scores

SHUFFLES = 10


def permutation_drops(
    label: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
    tabular: np.ndarray,
    groups: Mapping[str, Sequence[int]],
    *,
    shuffles: int = SHUFFLES,
    seed: int = 0,
) -> pd.DataFrame:
    """The loss of AUC by predictor and shuffle; negative if shuffling happens to help.

    All features of a predictor move together, as they do if the predictor is shuffled before it is encoded. A derived
    predictor is shuffled by itself: the volumes that it is made of stay, and it stays if they are shuffled. So the loss
    is that of one predictor of the model while the others still tell what they have in common with it.

    Args:
        label: 0 or 1 [N]; both occur.
        score: the scores [N] of encoded rows [N, T], row i with the image of patient i.
        tabular: the patients' encoded rows [N, T].
        groups: the columns of each predictor (`TabularEncoder.feature_groups`).
        shuffles: number of shuffles, each of which serves all predictors.

    Returns:
        One row per shuffle, one column per predictor.
    """
    random = np.random.default_rng(seed)
    intact = _auc(label, score(tabular))
    orders = [random.permutation(len(tabular)) for _ in range(shuffles)]
    return pd.DataFrame(
        {
            predictor: [intact - _auc(label, score(_shuffled(tabular, list(columns), order))) for order in orders]
            for predictor, columns in groups.items()
        }
    )


def _shuffled(tabular: np.ndarray, columns: list[int], order: np.ndarray) -> np.ndarray:
    shuffled = tabular.copy()
    shuffled[:, columns] = tabular[order][:, columns]
    return shuffled


def _auc(label: np.ndarray, score: np.ndarray) -> float:
    return float(auc_components(*labels_and_scores(label, score))[0].mean())
