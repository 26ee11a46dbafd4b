"""What moved one decision: Shapley values of a patient's predictors against the values of a typical patient.

Shapley 1953, for a single reference (Sundararajan & Najmi, ICML 2020, "baseline Shapley"). Needs numpy only, because it
runs inside registered models, where the `shap` package is not installed.
"""

from collections.abc import Callable

import numpy as np

ORDERS = 16


def coalition_shapley(
    value: Callable[[np.ndarray], np.ndarray], players: int, *, orders: int = ORDERS, seed: int = 0
) -> np.ndarray:
    """The Shapley values [P] of a game; they sum to what all players reach beyond what none does.

    Sampled over orders in which players join and their reverses, which is exact unless more than two players interact.

    Args:
        value: what each of M coalitions reaches [M]; takes who is in it, bool [M, P].
        orders: number of random orders.
    """
    random = np.random.default_rng(seed)
    forward = [random.permutation(players) for _ in range(orders)]
    sequences = np.array([*forward, *(order[::-1] for order in forward)], int)
    place = np.argsort(sequences, axis=1)
    joined = place[:, None, :] < np.arange(players + 1)[:, None]  # [orders, how many have joined, P]
    coalitions, each = np.unique(joined.reshape(-1, players), axis=0, return_inverse=True)
    reached = value(coalitions)[each].reshape(len(sequences), players + 1)
    return np.asarray(np.take_along_axis(np.diff(reached, axis=1), place, axis=1).mean(axis=0))
