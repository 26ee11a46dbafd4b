"""Hold-out and folds, fixed in a file whose hash every trial, member and registered model carries."""

import json
import operator
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field, ValidationError, model_validator

from rlvo.config.base import Frozen, content_hash
from rlvo.config.sections import FoldsConfig
from rlvo.errors import RlvoError
from rlvo.files import atomic_write, parse_json


class Split(Frozen):
    """Which patients are held out for the test, and which validate each fold. Every patient is in exactly one part."""

    test: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    training_only: Annotated[tuple[str, ...], Field(exclude_if=operator.not_)] = ()
    """Who trains every fold and validates none (the paper's Model C)."""

    @model_validator(mode="after")
    def _disjoint(self) -> "Split":
        counts = Counter([*self.test, *self.development])
        if twice := [patient for patient, count in counts.items() if count > 1]:
            raise ValueError(f"patients in more than one part: {join_names(twice)}")
        return self

    @property
    def development(self) -> tuple[str, ...]:
        """All patients outside the hold-out."""
        return (*self.validated, *self.training_only)

    @property
    def validated(self) -> tuple[str, ...]:
        """Those who validate a fold."""
        return tuple(patient for fold in self.folds for patient in fold)

    def training(self, k: int) -> tuple[str, ...]:
        """Training patients of fold k: those of the other folds, and who trains every fold."""
        others = tuple(patient for i, fold in enumerate(self.folds) if i != k for patient in fold)
        return (*others, *self.training_only)

    def validation(self, k: int) -> tuple[str, ...]:
        """Validation patients of fold k."""
        return self.folds[k]

    @property
    def hash(self) -> str:
        """SHA-256 over who is in which part, whatever the order within a part."""
        further = {"training_only": sorted(self.training_only)} if self.training_only else {}
        return content_hash({"test": sorted(self.test), "folds": [sorted(fold) for fold in self.folds], **further})


def make_split(label: pd.Series, folds: FoldsConfig, table: pd.DataFrame | None = None) -> Split:
    """Draw the hold-out and the folds; the rows of one `person` stay together. The table's row order has no effect.

    Args:
        label: 0 or 1 per patient, indexed by patient id.
        folds: the paper's random stratified hold-out and stratified folds (sections 2.3–2.4), or by date, center, list.
        table: checked rows of these patients, for `admission_date`, `center` and `person`; None: there are none.

    Raises:
        RlvoError: a class has too few patients for every part to hold both classes, a date or center that the split
            needs is missing or unknown, or a part has one class only; the message names patients.
    """
    label = label.sort_index()
    context = pd.DataFrame(index=label.index) if table is None else table.loc[label.index]
    person = persons(label, context)
    counts = label.groupby(person).max().value_counts().reindex([0, 1], fill_value=0)
    if counts.min() < folds.folds + 1:
        what = f"{counts[1]} rLVO and {counts[0]} other patients are too few for a hold-out and {folds.folds} folds"
        raise RlvoError(what, where="split", fix=f"At least {folds.folds + 1} patients of each class are needed")
    test = sorted(_test_set(label, context, person, folds))
    development = label.drop(test)
    if folds.scheme == "leave_one_center_out":
        parts = _center_folds(development, context, folds)
    else:
        parts = _stratified_folds(development, person[development.index], folds)
    split = Split(test=tuple(test), folds=tuple(parts))
    check_split(split, label, person)
    return split


def split_rest(label: pd.Series, test: Iterable[str], folds: FoldsConfig, table: pd.DataFrame) -> Split:
    """Keep a hold-out that is given, with all rows of its persons, and draw folds of the other patients.

    Arguments and errors are those of `make_split`.
    """
    label = label.sort_index()
    person = persons(label, table.loc[label.index])
    held_out = person.index[person.isin(person[list(test)])]
    development = label.drop(held_out)
    parts = _stratified_folds(development, person[development.index], folds)
    return Split(test=tuple(sorted(held_out)), folds=tuple(parts))


def take_over(split: Split, label: pd.Series, table: pd.DataFrame, *, train_others: bool) -> Split:
    """The hold-out and folds of another study of the same cohort.

    Args:
        split: the other study's.
        label: 0 or 1 per patient, indexed by patient id: all of that study's, and perhaps others.
        table: checked rows of these patients, for `person`.
        train_others: whether the others train every fold; never rows of a person who is in that study.

    Raises:
        RlvoError: a patient of that study is missing.
    """
    label = label.sort_index()
    person = persons(label, table.loc[label.index])
    known = label.index.isin([*split.test, *split.development])
    others = label.index[~known & ~person.isin(person[known])] if train_others else ()
    taken = Split(test=split.test, folds=split.folds, training_only=(*split.training_only, *sorted(others)))
    own = label.index.isin([*taken.test, *taken.development])
    check_split(taken, label[own], person[own])
    return taken


def persons(label: pd.Series, table: pd.DataFrame) -> pd.Series:
    """Whose row each is: a patient's own if `person` is not filled."""
    own = pd.Series(label.index, index=label.index)
    return table["person"].fillna(own) if "person" in table else own


def check_split(split: Split, label: pd.Series, person: pd.Series) -> None:
    """Refuse a split that has unknown patients, lacks patients, has a part of one class only, or separates a person.

    Raises:
        RlvoError: names the part and up to five patients.
    """
    everyone, cohort = {*split.test, *split.development}, set(label.index)
    for what, names in (
        ("that are not in the cohort", everyone - cohort),
        ("in neither the hold-out nor a fold", cohort - everyone),
    ):
        if names:
            raise RlvoError(f"patients {what}: {join_names(sorted(names))}", where="split", fix="Make a new split")
    for name, part in [("the hold-out", split.test), *((f"fold {k}", fold) for k, fold in enumerate(split.folds))]:
        if label[list(part)].nunique() < 2:
            what = f"{name} holds one class only: {join_names(part)}"
            raise RlvoError(what, where="split", fix="Use fewer folds or more patients")
    parts_of_split = (split.test, *split.folds, split.training_only)
    part_of = {patient: k for k, part in enumerate(parts_of_split) for patient in part}
    parts = pd.Series(part_of).groupby(person).nunique()
    if apart := sorted(person.index[person.isin(parts.index[parts > 1])]):
        what = f"rows of one person are in more than one part: {join_names(apart)}"
        raise RlvoError(what, where="split", fix="Put them in one center or list, or keep one row per person")


def write_split(split: Split, path: Path) -> None:
    """Write the split and its hash as JSON, atomically."""
    atomic_write(path, json.dumps({"hash": split.hash, **split.model_dump(mode="json")}, indent=1))


def read_split(path: Path) -> Split:
    """Read a split. Raises RlvoError if the file is missing, damaged, or was edited after it was written."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        stored = content.pop("hash")
        split = Split.model_validate(content)
    except FileNotFoundError:
        raise RlvoError("no such split file", where=path) from None
    except ValidationError as error:
        reason = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise RlvoError(f"not a split file: {reason}", where=path, fix="Make a new split") from None
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise RlvoError(f"not a split file ({type(error).__name__})", where=path, fix="Make a new split") from None
    if stored != split.hash:
        raise RlvoError("the split was edited after it was written", where=path, fix="Restore it or make a new split")
    return split


def join_names(names: Iterable[object]) -> str:
    """Join up to five names, and say how many more there are."""
    listed = list(map(str, names))
    return (", ".join(listed[:5]) or "none") + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


def _required(context: pd.DataFrame, name: str, needed_by: str) -> pd.Series:
    """Return a column in which every patient must have a value."""
    if name not in context:
        raise RlvoError(f"the split '{needed_by}' needs the column {name}", where="folds", fix="Add the column")
    if without := list(context.index[context[name].isna()]):
        what = f"the split '{needed_by}' needs {name} for every patient; it is missing for {join_names(without)}"
        raise RlvoError(what, where="folds", fix="Fill it in")
    return context[name]


def _test_set(label: pd.Series, context: pd.DataFrame, person: pd.Series, folds: FoldsConfig) -> Iterable[str]:
    if folds.holdout == "temporal":
        return _last_admitted(_required(context, "admission_date", "temporal"), person, folds.test_fraction)
    if folds.holdout == "center":
        return _of_centers(_required(context, "center", "center"), folds.test_centers)
    if folds.test_patients is not None:
        return _listed(folds.test_patients, label.index)
    return _random(label, person, folds)


def _random(label: pd.Series, person: pd.Series, folds: FoldsConfig) -> Iterable[str]:
    """Draw persons, stratified; a person is rLVO if any of their rows is."""
    from sklearn.model_selection import train_test_split

    per_person = label.groupby(person).max()
    try:
        _, chosen = train_test_split(
            per_person.index.to_numpy(), test_size=folds.test_fraction, stratify=per_person, random_state=folds.seed
        )
    except ValueError as error:
        raise RlvoError(f"no hold-out of {folds.test_fraction:.0%} can be drawn ({error})", where="split") from None
    return person.index[person.isin(chosen)]


def _last_admitted(dates: pd.Series, person: pd.Series, fraction: float) -> Iterable[str]:
    """Choose about `fraction` of the patients, from a date on; a person counts by their last admission."""
    last = dates.groupby(person).transform("max")
    first_test_date = last.sort_values().iloc[-max(round(fraction * len(last)), 1)]
    return list(last.index[last >= first_test_date])


def _of_centers(centers: pd.Series, chosen: tuple[str, ...]) -> Iterable[str]:
    known = sorted(centers.unique())
    if unknown := [name for name in chosen if name not in known]:
        what = f"no patient is from center {join_names(unknown)}"
        raise RlvoError(what, where="folds.test_centers", fix=f"Centers: {join_names(known)}")
    return centers.index[centers.isin(chosen)]


def _listed(path: Path, known: pd.Index) -> Iterable[str]:
    try:
        listed = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RlvoError(f"the list of hold-out patients cannot be read ({error})", where=path) from None
    if twice := [patient for patient, count in Counter(listed).items() if count > 1]:
        raise RlvoError(f"patients listed twice: {join_names(twice)}", where=path, fix="List each once")
    if unknown := [patient for patient in listed if patient not in known]:
        what = f"patients that are not among those included: {join_names(unknown)}"
        raise RlvoError(what, where=path, fix="Write ids as in the table, one per line, without excluded patients")
    if not listed:
        raise RlvoError("the file lists no patients", where=path, fix="Write one patient id per line")
    return listed


def _stratified_folds(label: pd.Series, person: pd.Series, folds: FoldsConfig) -> list[tuple[str, ...]]:
    from sklearn.model_selection import StratifiedKFold

    per_person = label.groupby(person).max()
    for value, name in ((1, "rLVO"), (0, "other")):
        if (label_is := per_person == value).sum() < folds.folds:
            few = label.index[person.isin(per_person.index[label_is])]
            what = f"fewer than {folds.folds} {name} patients are outside the hold-out: {join_names(few)}"
            raise RlvoError(what, where="split", fix="Use fewer folds")
    splitter = StratifiedKFold(folds.folds, shuffle=True, random_state=folds.seed)
    rows = (rows for _, rows in splitter.split(per_person.index, per_person))
    return [tuple(label.index[person.isin(per_person.index[own])]) for own in rows]


def _center_folds(label: pd.Series, context: pd.DataFrame, folds: FoldsConfig) -> list[tuple[str, ...]]:
    centers = _required(context, "center", "leave_one_center_out").loc[label.index]
    names = sorted(centers.unique())
    if len(names) != folds.folds:
        what = f"one of {len(names)} centers is left out per fold ({join_names(names)}), but folds is {folds.folds}"
        fix = f"Set folds to {len(names)}" if len(names) > 1 else "More centers are needed outside the hold-out"
        raise RlvoError(what, where="folds", fix=fix)
    return [tuple(centers.index[centers == name]) for name in names]
