from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvo.cohort.splits import Split, check_split, make_split, read_split, write_split
from rlvo.config.study import FoldsConfig
from rlvo.errors import RlvoError


def label(n: int, positives: int) -> pd.Series:
    return pd.Series([int(i < positives) for i in range(n)], index=[f"{i:04d}" for i in range(n)])


@settings(max_examples=12, deadline=None)
@given(n=st.integers(60, 300), share=st.floats(0.15, 0.5), folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_everyone_is_in_one_part_and_classes_are_spread_evenly(n: int, share: float, folds: int, seed: int) -> None:
    y = label(n, round(n * share))
    split = make_split(y, FoldsConfig(folds=folds, seed=seed))
    assert sorted([*split.test, *split.development]) == sorted(y.index)
    assert len(split.test) == pytest.approx(0.2 * n, abs=1)
    positives = [int(y[list(fold)].sum()) for fold in split.folds]
    assert max(positives) - min(positives) <= 1
    assert y[list(split.test)].sum() == pytest.approx(0.2 * y.sum(), abs=1)
    for k in range(folds):
        training = split.training(k)
        assert not set(training) & {*split.validation(k), *split.test}
        assert sorted([*training, *split.validation(k)]) == sorted(split.development)


def test_row_order_does_not_matter_and_the_seed_does() -> None:
    y = label(100, 30)
    split = make_split(y, FoldsConfig())
    assert make_split(y.sample(frac=1, random_state=0), FoldsConfig()) == split
    assert make_split(y, FoldsConfig(seed=1)).hash != split.hash


def test_the_papers_sizes() -> None:
    split = make_split(label(599, 93), FoldsConfig())
    assert len(split.test) == 120
    assert [len(fold) for fold in split.folds] == [120, 120, 120, 119]


@pytest.mark.parametrize(("n", "positives"), [(40, 0), (40, 40), (40, 4), (0, 0)])
def test_too_few_of_a_class_is_refused(n: int, positives: int) -> None:
    with pytest.raises(RlvoError, match=f"{positives} rLVO and {n - positives} other patients are too few"):
        make_split(label(n, positives), FoldsConfig())


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_test_fraction_that_leaves_a_part_without_a_class_is_refused(fraction: float) -> None:
    with pytest.raises(RlvoError, match="split"):
        make_split(label(40, 6), FoldsConfig(test_fraction=fraction))


def test_a_split_round_trips_and_an_edited_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    split = make_split(label(100, 30), FoldsConfig())
    write_split(split, path)
    assert read_split(path) == split
    content = json.loads(path.read_text())
    content["test"][0], content["folds"][0][0] = content["folds"][0][0], content["test"][0]
    path.write_text(json.dumps(content))
    with pytest.raises(RlvoError, match="was edited"):
        read_split(path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"hash": "x", "test": ["a"]}', '{"hash": "x", "test": ["a"], "folds": [["a"]]}']
)
def test_damaged_split_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(RlvoError, match="not a split file"):
        read_split(path)
    with pytest.raises(RlvoError, match="no such split file"):
        read_split(tmp_path / "none.json")


def test_the_hash_is_of_the_assignment() -> None:
    split = Split(test=("a", "b"), folds=(("c", "d"), ("e", "f")))
    assert Split(test=("b", "a"), folds=(("d", "c"), ("e", "f"))).hash == split.hash
    assert Split(test=("a", "b"), folds=(("e", "f"), ("c", "d"))).hash != split.hash
    with pytest.raises(ValueError, match="more than one part: a"):
        Split(test=("a",), folds=(("a", "b"),))


def test_a_split_of_another_cohort_is_refused() -> None:
    y = pd.Series([0, 1, 0, 1, 0, 1], index=list("abcdef"))
    check_split(Split(test=("a", "b"), folds=(("c", "d"), ("e", "f"))), y)
    with pytest.raises(RlvoError, match="not in the cohort: g"):
        check_split(Split(test=("a", "b"), folds=(("c", "d"), ("e", "f", "g"))), y)
    with pytest.raises(RlvoError, match="in no part: f"):
        check_split(Split(test=("a", "b"), folds=(("c", "d"), ("e",))), y)
    with pytest.raises(RlvoError, match="fold 0 holds one class only: c, e"):
        check_split(Split(test=("a", "b"), folds=(("c", "e"), ("d", "f"))), y)
