import itertools
import math

import numpy as np
import pytest

from rlvo.explain.shapley import shapley_values

GROUPS = {"age": (0,), "occlusion_side": (1, 2), "nihss": (3,), "ivt": (4,)}
ROWS = np.random.default_rng(0).random((9, 5))
ROW, BACKGROUND = ROWS[0], ROWS[1:]


def smooth(rows: np.ndarray) -> np.ndarray:
    """All predictors but `ivt` interact."""
    return np.asarray(np.exp(rows[:, 0] * (1 + rows[:, 1]) * (1 + rows[:, 3])) - rows[:, 2])


def value(kept: set[str]) -> float:
    """The mean answer if only these predictors are the patient's."""
    rows = BACKGROUND.copy()
    for predictor in kept:
        rows[:, GROUPS[predictor]] = ROW[list(GROUPS[predictor])]
    return float(smooth(rows).mean())


def by_definition() -> list[float]:
    """Mean over all orders of what each predictor adds to those before it."""
    orders = list(itertools.permutations(GROUPS))
    return [
        math.fsum(value({*o[: o.index(p)], p}) - value({*o[: o.index(p)]}) for o in orders) / len(orders)
        for p in GROUPS
    ]


@pytest.mark.slow  # the first call imports shap
def test_they_are_what_the_definition_says_and_sum_to_the_difference_from_the_background() -> None:
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    difference = (smooth(ROW[None]) - smooth(BACKGROUND).mean()).item()
    few = shapley_values(smooth, ROW, BACKGROUND, GROUPS, permutations=1)
    assert few.sum() == pytest.approx(difference)
    many = shapley_values(smooth, ROW, BACKGROUND, GROUPS, permutations=500)
    assert many.sum() == pytest.approx(difference)
    assert many == pytest.approx(by_definition(), abs=0.02)
    assert many[3] == pytest.approx(0, abs=1e-12)
    assert (state == np.random.get_state()[1]).all()

    linear = shapley_values(lambda rows: rows @ [3, 2, -1, 0.5, 0], ROW, BACKGROUND, GROUPS, permutations=1)
    away = ROW - BACKGROUND.mean(axis=0)
    assert linear == pytest.approx([3 * away[0], 2 * away[1] - away[2], 0.5 * away[3], 0])

    again, other = (shapley_values(smooth, ROW, BACKGROUND, GROUPS, permutations=1, seed=seed) for seed in (0, 3))
    assert (few == again).all()
    assert not (few == other).all()
