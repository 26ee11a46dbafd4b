"""Odds ratios against statsmodels and the two-by-two table, and terms that are not estimable."""

import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvo.evaluation.odds import odds_ratios

ESTIMATES = ["odds_ratio", "low", "high", "p"]


@pytest.fixture(autouse=True)
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def design() -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {"age": random.normal(75, 9, 300), "volume": random.gamma(2, 60, 300), "ivt": random.integers(0, 2, 300)}
    )


@pytest.fixture
def y(design: pd.DataFrame) -> np.ndarray:
    logit = (design["age"] - 75) / 10 - 1.2 * design["ivt"]
    return (np.random.default_rng(1).random(300) < 1 / (1 + np.exp(-logit))).to_numpy(int)


def statsmodels_estimates(design: pd.DataFrame, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    fit = sm.Logit(y, sm.add_constant(design.astype(float))).fit(disp=0)
    return np.exp(np.column_stack([fit.params, fit.conf_int()]))[1:], fit.pvalues[1:]


def assert_estimates(found: pd.DataFrame, expected: tuple[np.ndarray, np.ndarray]) -> None:
    np.testing.assert_allclose(found[ESTIMATES[:3]], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found["p"], expected[1], rtol=1e-4, atol=1e-12)


def test_they_are_statsmodels_in_natural_units(design: pd.DataFrame, y: np.ndarray) -> None:
    found = odds_ratios(design, y)
    assert list(found["term"]) == list(design)
    assert (found["note"] == "").all()
    assert_estimates(found, statsmodels_estimates(design, y))
    wider = odds_ratios(design.assign(volume=design["volume"] / 10), y)
    np.testing.assert_allclose(wider["odds_ratio"][1], found["odds_ratio"][1] ** 10)


def test_one_binary_term_is_the_two_by_two_table() -> None:
    exposed, y = np.repeat([1, 1, 0, 0], [12, 5, 7, 20]), np.repeat([1, 0, 1, 0], [12, 5, 7, 20])
    (found,) = odds_ratios(pd.DataFrame({"exposed": exposed}), y).to_dict("records")
    error = np.sqrt(1 / 12 + 1 / 5 + 1 / 7 + 1 / 20)  # Woolf 1955
    assert found["odds_ratio"] == pytest.approx(12 * 20 / (5 * 7))
    assert found["high"] / found["odds_ratio"] == pytest.approx(np.exp(1.959964 * error), rel=1e-5)


def test_collinear_and_constant_terms_are_not_estimable_and_harm_no_other(design: pd.DataFrame, y: np.ndarray) -> None:
    found = odds_ratios(design.assign(twice=2 * design["age"] + 1, always=1.0), y).set_index("term")
    collinear, constant = "collinear with other terms", "the same in every patient"
    assert dict(found["note"]) == {"age": collinear, "volume": "", "ivt": "", "twice": collinear, "always": constant}
    assert found.loc[["age", "twice", "always"], ESTIMATES].isna().all(axis=None)
    kept, expected = ["volume", "ivt"], odds_ratios(design, y).set_index("term")
    np.testing.assert_allclose(found.loc[kept, "odds_ratio"], expected.loc[kept, "odds_ratio"])


def test_a_term_that_separates_has_no_estimate_and_the_others_have_those_of_the_other_patients(
    design: pd.DataFrame, y: np.ndarray
) -> None:
    # Only patients with rLVO have it: its odds ratio is infinite, and those who have it tell nothing else.
    rare = (np.random.default_rng(2).random(300) < 0.2) & (y == 1)
    found = odds_ratios(design.assign(rare=rare.astype(int)), y)
    assert list(found["note"]) == ["", "", "", "separates the classes"]
    assert found.loc[3, ESTIMATES].isna().all()
    assert_estimates(found[:3], statsmodels_estimates(design[~rare], y[~rare]))


def test_full_separation_leaves_everything_open() -> None:
    found = odds_ratios(pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [0.0, 1, 1, 0]}), [0, 0, 1, 1])
    assert (found["note"] == "separates the classes").all()
    assert found[ESTIMATES].isna().all(axis=None)


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(st.data())
def test_small_tables_never_warn_and_have_estimates_or_a_reason(data: st.DataObject) -> None:
    n = data.draw(st.integers(4, 25))
    columns = data.draw(st.integers(1, 4))
    x = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=n, max_size=n), min_size=columns, max_size=columns))
    y = data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda own: 0 < sum(own) < n))
    found = odds_ratios(pd.DataFrame(np.array(x).T), y)
    is_open = found["note"] != ""
    assert found.loc[is_open, ESTIMATES].isna().all(axis=None)
    assert np.isfinite(found.loc[~is_open, ESTIMATES].to_numpy()).all()


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="both classes"):
        odds_ratios(pd.DataFrame({"a": [1, 2]}), [1, 1])
