"""Shapley values of the predictors: how each moves a patient's logit away from that of other patients' tables.

Shapley 1953; Lundberg & Lee 2017. Sampled by the `shap` package, over permutations in both directions, which is exact
unless more than two predictors interact.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

PERMUTATIONS = 2


def shapley_values(
    answer: Callable[[np.ndarray], np.ndarray],
    row: np.ndarray,
    background: np.ndarray,
    groups: Mapping[str, Sequence[int]],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> np.ndarray:
    """The Shapley values [P] of one patient's predictors; they sum to answer(row) − mean answer(background).

    A predictor that is left out takes its value from the background patients; its features do so together.

    Args:
        answer: the logits [M] of encoded rows [M, T], with the patient's own image.
        row: the patient's encoded row [T].
        background: encoded rows [B, T] of training patients.
        groups: the columns of each of the P predictors (`TabularEncoder.feature_groups`).
        permutations: number of orders in which predictors are added and removed again: M is (2P + 1)·B for each.
    """
    shap = _shap()
    rows = np.vstack([row, background])
    owner = np.empty(rows.shape[1], np.intp)
    for number, columns in enumerate(groups.values()):
        owner[list(columns)] = number

    def from_rows(taken: np.ndarray) -> np.ndarray:
        """Answer for tables in which each predictor is taken from one of the rows, given by number [M, P]."""
        return answer(np.take_along_axis(rows, taken.astype(np.intp)[:, owner], axis=0))

    # To shap, a predictor is one input, whose value is the number of the row that it comes from.
    others = np.repeat(np.arange(1.0, len(rows))[:, None], len(groups), axis=1)
    masker = shap.maskers.Independent(others, max_samples=len(others))
    with _numpy_state_kept():
        explainer = shap.PermutationExplainer(from_rows, masker, seed=seed)
        found = explainer(np.zeros((1, len(groups))), max_evals=permutations * (2 * len(groups) + 1), silent=True)
    return np.asarray(found.values[0], np.float64)


def _shap() -> Any:
    """The package, which takes seconds to import, as plain Python: compiling it takes 8 s, and saves some 10 ms."""
    import numba

    before, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, True
    try:
        import shap
    finally:
        numba.config.DISABLE_JIT = before
    return shap


@contextmanager
def _numpy_state_kept() -> Iterator[None]:
    """shap seeds numpy's global generator: give it back as it was."""
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)
