"""One vote per fold, one decision per patient."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Tie = Literal["negative", "positive", "margin"]


def majority_vote(votes: ArrayLike, margins: ArrayLike | None = None, tie: Tie = "negative") -> np.ndarray:
    """Decide by strict majority of the folds' votes (paper, section 2.4).

    Args:
        votes: 0 or 1 [K, N], one row per fold.
        margins: score − threshold [K, N]; needed only if `tie` is `margin`.
        tie: the decision if votes are even: `negative`, `positive`, or `margin` (positive if the mean margin is ≥ 0).

    Returns:
        Decisions, 0 or 1 [N].

    Raises:
        ValueError: `tie` is `margin` and no margins are given.
    """
    ballots = np.asarray(votes, int)
    lead = 2 * ballots.sum(axis=0) - len(ballots)
    match tie:
        case "negative":
            drawn = np.zeros(lead.shape, bool)
        case "positive":
            drawn = np.ones(lead.shape, bool)
        case "margin":
            if margins is None:
                raise ValueError("ties can be decided by margin only if margins are given")
            drawn = np.mean(np.asarray(margins, float), axis=0) >= 0
    return np.where(lead == 0, drawn, lead > 0).astype(int)
