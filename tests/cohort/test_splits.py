import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvo.cohort.splits import Split, check_split, make_split, read_split, take_over, write_split
from rlvo.config.sections import FoldsConfig
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


def test_the_papers_split_has_not_changed() -> None:
    split = make_split(label(599, 93), FoldsConfig())
    assert len(split.test) == 120
    assert [len(fold) for fold in split.folds] == [120, 120, 120, 119]
    # Every trial and model of a study carries this hash: the same patients must stay the same split.
    assert split.hash.startswith("2bc367253f5aaeda")
    assert make_split(label(100, 30), FoldsConfig(seed=1, folds=3)).hash.startswith("e4294a4e0d1f7a19")


@pytest.mark.parametrize(("n", "positives"), [(40, 0), (40, 40), (40, 4), (0, 0)])
def test_too_few_patients_of_a_class_are_refused(n: int, positives: int) -> None:
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
    ("content", "reason"),
    [("", ""), ("[]", ""), ("[" * 100_000, ""), ("{}", ""), ('{"hash": "x", "test": ["a"]}', ": Field required"),
     ('{"hash": "x", "test": ["a", "b"], "folds": [["b", "c"], ["d"]]}', ": patients in more than one part: b")],
)  # fmt: skip
def test_damaged_split_files_are_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(RlvoError, match=f"not a split file{reason}"):
        read_split(path)
    with pytest.raises(RlvoError, match="no such split file"):
        read_split(tmp_path / "none.json")


def test_the_hash_depends_only_on_who_is_in_which_part() -> None:
    split = Split(test=("a", "b"), folds=(("c", "d"), ("e", "f")))
    assert Split(test=("b", "a"), folds=(("d", "c"), ("e", "f"))).hash == split.hash
    assert Split(test=("a", "b"), folds=(("e", "f"), ("c", "d"))).hash != split.hash


def test_a_split_of_another_cohort_is_refused() -> None:
    y = pd.Series([0, 1, 0, 1, 0, 1], index=list("abcdef"))
    person = pd.Series(y.index, index=y.index)
    check_split(Split(test=("a", "b"), folds=(("c", "d"), ("e", "f"))), y, person)
    with pytest.raises(RlvoError, match="not in the cohort: g"):
        check_split(Split(test=("a", "b"), folds=(("c", "d"), ("e", "f", "g"))), y, person)
    with pytest.raises(RlvoError, match="in neither the hold-out nor a fold: f"):
        check_split(Split(test=("a", "b"), folds=(("c", "d"), ("e",))), y, person)


@pytest.fixture
def context() -> pd.DataFrame:
    """120 patients in four centers, admitted over 60 days, two per day."""
    ids = [f"{i:04d}" for i in range(120)]
    days = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(120) // 2, unit="D")
    return pd.DataFrame({"center": list("ABCD") * 30, "admission_date": days.strftime("%Y-%m-%d")}, index=ids)


@pytest.fixture
def y(context: pd.DataFrame) -> pd.Series:
    return pd.Series(np.random.default_rng(0).integers(0, 2, 120), index=context.index)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), rows=st.lists(st.integers(1, 4), min_size=50, max_size=80))
def test_rows_of_one_person_stay_together(seed: int, rows: list[int]) -> None:
    person = [f"n{i}" for i, count in enumerate(rows) for _ in range(count)]
    ids = [f"{i:04d}" for i in range(len(person))]
    y = pd.Series([int(name[-1] in "246") for name in person], index=ids)
    split = make_split(y, FoldsConfig(seed=seed), pd.DataFrame({"person": person}, index=ids))
    part = {patient: k for k, members in enumerate((split.test, *split.folds)) for patient in members}
    assert pd.Series(part).groupby(pd.Series(person, index=ids)).nunique().max() == 1
    assert len(part) == len(ids)
    persons = pd.Series(person, index=ids)
    assert persons[list(split.test)].nunique() == pytest.approx(0.2 * len(rows), abs=1)


def test_rows_without_a_person_are_separate_persons(context: pd.DataFrame, y: pd.Series) -> None:
    nobody = context.assign(person=None)
    assert make_split(y, FoldsConfig(), nobody) == make_split(y, FoldsConfig())


def test_the_last_admitted_are_held_out_and_no_day_is_split(context: pd.DataFrame, y: pd.Series) -> None:
    split = make_split(y, FoldsConfig(holdout="temporal", test_fraction=0.2), context)
    assert len(split.test) == 24
    dates = context["admission_date"]
    assert dates[list(split.test)].min() > dates[list(split.development)].max()
    assert len(make_split(y, FoldsConfig(holdout="temporal", test_fraction=0.21), context).test) == 26
    # A person who comes again late is held out with the earlier row.
    again = context.assign(person=["again" if i in (0, 119) else str(i) for i in range(120)])
    assert {"0000", "0119"} <= set(make_split(y, FoldsConfig(holdout="temporal"), again).test)


def test_centers_are_held_out_and_left_out(context: pd.DataFrame, y: pd.Series) -> None:
    centers = FoldsConfig(holdout="center", test_centers=("D",), scheme="leave_one_center_out", folds=3)
    split = make_split(y, centers, context)
    assert set(context.loc[list(split.test), "center"]) == {"D"}
    assert [set(context.loc[list(fold), "center"]) for fold in split.folds] == [{"A"}, {"B"}, {"C"}]


def test_a_list_is_held_out(context: pd.DataFrame, y: pd.Series, tmp_path: Path) -> None:
    path = tmp_path / "test.txt"
    path.write_text("\ufeff0003\n0001\n\n 0002 \n0004\n0005\n", encoding="utf-8")
    split = make_split(y, FoldsConfig(holdout="list", test_patients=path))
    assert split.test == ("0001", "0002", "0003", "0004", "0005")


@pytest.mark.parametrize(
    ("content", "says"),
    [("0001\n0001\n", "listed twice: 0001"), ("0001\nX9\n", "not among those included: X9"), ("\n", "no patients"),
     ("0000\n0002\n", "rows of one person are in more than one part: 0000, 0001, 0002, 0003")],
)  # fmt: skip
def test_lists_that_do_not_fit_are_refused(
    context: pd.DataFrame, y: pd.Series, tmp_path: Path, content: str, says: str
) -> None:
    y[["0000", "0002"]] = [0, 1]
    context["person"] = np.arange(120) // 2
    (tmp_path / "test.txt").write_text(content)
    with pytest.raises(RlvoError, match=says):
        make_split(y, FoldsConfig(holdout="list", test_patients=tmp_path / "test.txt"), context)
    with pytest.raises(RlvoError, match="cannot be read"):
        make_split(y, FoldsConfig(holdout="list", test_patients=tmp_path / "none.txt"), context)


def test_the_columns_a_split_needs_must_be_filled(context: pd.DataFrame, y: pd.Series) -> None:
    temporal = FoldsConfig(holdout="temporal")
    with pytest.raises(RlvoError, match="needs the column admission_date"):
        make_split(y, temporal)
    with pytest.raises(RlvoError, match="missing for 0007"):
        make_split(y, temporal, context.assign(admission_date=context["admission_date"].mask(context.index == "0007")))
    with pytest.raises(RlvoError, match=r"no patient is from center E.*Centers: A, B, C, D"):
        make_split(y, FoldsConfig(holdout="center", test_centers=("E",)), context)
    with pytest.raises(
        RlvoError, match=r"one of 4 centers is left out per fold \(A, B, C, D\), but folds is 3. Set folds to 4"
    ):
        make_split(y, FoldsConfig(scheme="leave_one_center_out", folds=3), context)


def test_parts_with_one_class_are_refused_with_their_patients(context: pd.DataFrame, y: pd.Series) -> None:
    y[context["center"] == "D"] = 0
    with pytest.raises(RlvoError, match="the hold-out holds one class only: 0003, 0007, 0011, 0015, 0019 and 25 more"):
        make_split(y, FoldsConfig(holdout="center", test_centers=("D",)), context)
    centers = FoldsConfig(holdout="center", test_centers=("A",), scheme="leave_one_center_out", folds=3)
    with pytest.raises(RlvoError, match="fold 2 holds one class only: 0003"):
        make_split(y, centers, context)
    last = (context["admission_date"] >= "2020-02-18").astype(int)
    with pytest.raises(RlvoError, match="fewer than 4 rLVO patients are outside the hold-out: none"):
        make_split(last, FoldsConfig(holdout="temporal"), context)


@pytest.mark.parametrize(
    "settings",
    [{"holdout": "center"}, {"test_centers": ("A",)}, {"holdout": "list"}, {"test_patients": "a.txt"}],
)
def test_a_holdout_without_its_setting_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"holdout: (center|list)"):
        FoldsConfig.model_validate(settings)


def test_another_studys_split_is_taken_over_and_who_is_new_trains_every_fold_and_validates_none() -> None:
    y = label(60, 20)
    split, person = make_split(y, FoldsConfig()), pd.DataFrame(index=label(64, 20).index)
    wider = label(64, 20)
    same = take_over(split, wider, person, train_others=False)
    assert same == split
    assert same.hash == split.hash
    more = take_over(split, wider, person, train_others=True)
    new = ("0060", "0061", "0062", "0063")
    assert (more.test, more.folds, more.training_only) == (split.test, split.folds, new)
    assert more.hash != split.hash
    assert set(more.development) == {*split.development, *new}
    assert take_over(more, wider, person, train_others=False) == more
    for k in range(4):
        assert more.validation(k) == split.validation(k)
        assert set(more.training(k)) == {*split.training(k), *new}


def test_rows_of_persons_who_are_in_the_study_are_not_added() -> None:
    y = label(60, 20)
    split, wider = make_split(y, FoldsConfig()), label(64, 20)
    table = pd.DataFrame({"person": pd.Series(wider.index, wider.index)})
    table.loc["0060", "person"], table.loc["0061", "person"] = split.test[0], split.folds[1][0]
    table.loc["0062", "person"] = "0063"
    assert take_over(split, wider, table, train_others=True).training_only == ("0062", "0063")
    without = y.drop(split.folds[2][0])
    with pytest.raises(RlvoError, match="patients that are not in the cohort"):
        take_over(split, without, pd.DataFrame(index=without.index), train_others=True)


def test_a_split_with_further_training_patients_reads_back_and_others_look_as_before(tmp_path: Path) -> None:
    split = make_split(label(60, 20), FoldsConfig())
    write_split(split, tmp_path / "split.json")
    assert set(json.loads((tmp_path / "split.json").read_text())) == {"hash", "test", "folds"}
    more = Split(test=split.test, folds=split.folds, training_only=("new",))
    write_split(more, tmp_path / "more.json")
    assert read_split(tmp_path / "more.json") == more
    with pytest.raises(ValueError, match="more than one part"):
        Split(test=split.test, folds=split.folds, training_only=(split.test[0],))
