"""Majority votes, every one of four folds tried."""

import itertools

import numpy as np
import pytest

from rlvo.ensemble.voting import majority_vote

ALL = np.array(list(itertools.product([0, 1], repeat=4))).T
"""Every way four folds can vote: [4, 16]."""


def test_every_vote_of_four_folds() -> None:
    positive = ALL.sum(axis=0)
    assert majority_vote(ALL).tolist() == [int(n >= 3) for n in positive]
    assert majority_vote(ALL.astype(bool), tie="positive").tolist() == [int(n >= 2) for n in positive]


def test_a_tie_is_decided_by_margin_and_a_majority_is_not() -> None:
    votes = np.array([[1, 1, 1], [0, 0, 1]])
    margins = np.array([[0.3, 0.1, 0.1], [-0.1, -0.3, 0.1]])
    assert majority_vote(votes, margins, tie="margin").tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="margins"):
        majority_vote(votes, tie="margin")
    votes = np.array([[1, 0], [1, 0], [0, 1]])
    assert majority_vote(votes, np.array([[0.01, -0.01], [0.01, -0.01], [-0.9, 0.9]]), tie="margin").tolist() == [1, 0]
