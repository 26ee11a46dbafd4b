import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rlvo.explain.permutation import permutation_drops

GROUPS = {"age": (0,), "occlusion_side": (1, 2), "nihss": (3,)}


@pytest.fixture
def table() -> np.ndarray:
    random = np.random.default_rng(0)
    left = random.integers(0, 2, 400)
    return np.stack([random.random(400), left, 1 - left, random.random(400)], axis=1)


def test_the_drop_is_the_difference_of_two_aucs_and_an_unused_predictor_loses_exactly_nothing(
    table: np.ndarray,
) -> None:
    label = (table[:, 0] + np.random.default_rng(1).normal(0, 0.3, 400) > 0.5).astype(int)
    drops = permutation_drops(label, lambda rows: rows[:, 0], table, GROUPS, shuffles=3)
    assert list(drops) == list(GROUPS)
    assert len(drops) == 3
    assert (drops[["occlusion_side", "nihss"]] == 0).all(axis=None)
    order = np.random.default_rng(0).permutation(400)
    expected = roc_auc_score(label, table[:, 0]) - roc_auc_score(label, table[order, 0])
    assert drops["age"][0] == pytest.approx(expected)
    assert drops["age"].mean() > 0.2


def test_the_one_hots_of_a_predictor_move_together(table: np.ndarray) -> None:
    seen: list[np.ndarray] = []

    def score(rows: np.ndarray) -> np.ndarray:
        seen.append(rows)
        return rows[:, 1]

    permutation_drops(np.arange(400) % 2, score, table, {"occlusion_side": (1, 2)}, shuffles=2)
    assert len(seen) == 3
    assert all((rows[:, 1] + rows[:, 2] == 1).all() for rows in seen)
    assert not (seen[1][:, 1] == table[:, 1]).all()


def test_the_same_seed_shuffles_the_same_way(table: np.ndarray) -> None:
    label = (table[:, 0] > 0.5).astype(int)
    first, again, other = (
        permutation_drops(label, lambda rows: rows[:, 0] + rows[:, 3], table, GROUPS, seed=seed) for seed in (0, 0, 1)
    )
    assert first.equals(again)
    assert not first.equals(other)
