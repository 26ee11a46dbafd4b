"""One vote a fold, one decision a patient."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Tie = Literal["negative", "positive", "margin"]


def majority_vote(votes: ArrayLike, margins: ArrayLike | None = None, tie: Tie = "negative") -> np.ndarray:
    """The strict majority of the folds' votes (paper, section 2.4).

    Args:
        votes: [K, N] of 0/1, a row a fold.
        margins: [K, N] of score − threshold; needed where ties go by margin.
        tie: what an even split answers: `negative`, `positive`, or `margin` (positive where the mean margin is ≥ 0).

    Returns:
        [N] of 0/1.

    Raises:
        ValueError: ties go by margin and no margins are given.
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
                raise ValueError("a tie by margin needs the margins")
            drawn = np.mean(np.asarray(margins, float), axis=0) >= 0
    return np.where(lead == 0, drawn, lead > 0).astype(int)
