"""Shapley values of a game, against their definition."""

import itertools
import math

import numpy as np
import pytest

from rlvo.explain.decision import coalition_shapley


def by_definition(value: object, players: int) -> list[float]:
    """Mean over all orders of what each player adds to those who joined before."""

    def reached(who: tuple[int, ...]) -> float:
        return float(value(np.isin(np.arange(players), who)[None])[0])  # type: ignore[operator]

    orders = list(itertools.permutations(range(players)))
    return [
        math.fsum(reached(o[: o.index(p) + 1]) - reached(o[: o.index(p)]) for o in orders) / len(orders)
        for p in range(players)
    ]


def test_they_are_exact_if_no_more_than_two_players_interact() -> None:
    random = np.random.default_rng(0)
    pairs, alone = random.normal(size=(5, 5)), random.normal(size=5)
    pairs[4] = pairs[:, 4] = alone[4] = 0  # the last one adds nothing

    def value(joined: np.ndarray) -> np.ndarray:
        return np.asarray(joined @ alone + np.einsum("mi,ij,mj->m", joined, pairs, joined) + 7)

    found = coalition_shapley(value, 5, orders=1)
    assert found == pytest.approx(by_definition(value, 5))
    assert found[4] == pytest.approx(0, abs=1e-12)


def test_they_always_sum_to_what_all_reach_and_come_near_the_definition() -> None:
    def value(joined: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(joined @ [0.3, -0.8, 0.5, 1.0]))

    few, again, other = (coalition_shapley(value, 4, orders=1, seed=seed) for seed in (0, 0, 1))
    difference = value(np.ones((1, 4)))[0] - value(np.zeros((1, 4)))[0]
    assert few.sum() == pytest.approx(difference)
    assert (few == again).all()
    assert not (few == other).all()
    assert coalition_shapley(value, 4, orders=300) == pytest.approx(by_definition(value, 4), abs=0.03)
