"""Hold-out and folds, fixed in a file whose hash every trial, member and registered model carries."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
from pydantic import ValidationError, model_validator

from rlvo.cohort.holdout import column_of, holdout, named, units
from rlvo.config.base import Frozen, content_hash
from rlvo.config.study import FoldsConfig
from rlvo.errors import RlvoError
from rlvo.files import atomic_write


class Split(Frozen):
    """Which patients are held out for the test, and which validate each fold. Every patient is in exactly one part."""

    test: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]

    @model_validator(mode="after")
    def _disjoint(self) -> Split:
        counts = Counter([*self.test, *self.development])
        if twice := [patient for patient, count in counts.items() if count > 1]:
            raise ValueError(f"patients in more than one part: {named(twice)}")
        return self

    @property
    def development(self) -> tuple[str, ...]:
        """All patients but the test set's."""
        return tuple(patient for fold in self.folds for patient in fold)

    def training(self, k: int) -> tuple[str, ...]:
        """Training patients of fold k: the other folds' patients."""
        return tuple(patient for i, fold in enumerate(self.folds) if i != k for patient in fold)

    def validation(self, k: int) -> tuple[str, ...]:
        """Validation patients of fold k."""
        return self.folds[k]

    @property
    def hash(self) -> str:
        """SHA-256 over who is in which part, whatever the order within a part."""
        return content_hash({"test": sorted(self.test), "folds": [sorted(fold) for fold in self.folds]})


def make_split(label: pd.Series, folds: FoldsConfig, table: pd.DataFrame | None = None) -> Split:
    """Hold-out and folds as configured; the rows of one `person` stay together. Independent of the table's row order.

    Args:
        label: 0 or 1 a patient, indexed by patient id.
        folds: the paper's random stratified hold-out and stratified folds (sections 2.3–2.4), or by date, center, list.
        table: checked rows of these patients, for `admission_date`, `center` and `person`; None: there are none.

    Raises:
        RlvoError: too few patients of a class for every part to hold both classes; what the hold-out goes by is missing
            or unknown; a part with one class; naming patients.
    """
    label = label.sort_index()
    context = pd.DataFrame(index=label.index) if table is None else table.loc[label.index]
    person = units(context)
    _check_enough(label.groupby(person).max(), folds)
    test = holdout(label, context, person, folds)
    development = label.drop(test)
    if folds.scheme == "leave_one_center_out":
        parts = _centers(development, context, folds)
    else:
        parts = _stratified(development, person[development.index], folds)
    split = Split(test=tuple(sorted(test)), folds=tuple(parts))
    check_split(split, label)
    _check_together(split, person)
    return split


def _check_enough(label: pd.Series, folds: FoldsConfig) -> None:
    counts = label.value_counts().reindex([0, 1], fill_value=0)
    if counts.min() < folds.folds + 1:
        raise RlvoError(
            f"{counts[1]} rLVO and {counts[0]} other patients are too few for a test set and {folds.folds} folds",
            where="split",
            fix=f"At least {folds.folds + 1} patients of each class are needed",
        )


def _stratified(label: pd.Series, person: pd.Series, folds: FoldsConfig) -> list[tuple[str, ...]]:
    from sklearn.model_selection import StratifiedKFold

    per_person = label.groupby(person).max()
    for value, name in ((1, "rLVO"), (0, "other")):
        if (label_is := per_person == value).sum() < folds.folds:
            few = label.index[person.isin(per_person.index[label_is])]
            raise RlvoError(
                f"fewer than {folds.folds} {name} patients are outside the test set: {named(few)}",
                where="split",
                fix="Use fewer folds",
            )
    splitter = StratifiedKFold(folds.folds, shuffle=True, random_state=folds.seed)
    rows = (rows for _, rows in splitter.split(per_person.index, per_person))
    return [tuple(label.index[person.isin(per_person.index[own])]) for own in rows]


def _centers(label: pd.Series, context: pd.DataFrame, folds: FoldsConfig) -> list[tuple[str, ...]]:
    centers = column_of(context, "center", "leave_one_center_out").loc[label.index]
    names = sorted(centers.unique())
    if len(names) != folds.folds:
        raise RlvoError(
            f"leaves one of {len(names)} centers out ({named(names)}), and folds is {folds.folds}",
            where="folds",
            fix=f"Set folds to {len(names)}" if len(names) > 1 else "More centers are needed outside the test set",
        )
    return [tuple(centers.index[centers == name]) for name in names]


def _check_together(split: Split, person: pd.Series) -> None:
    part_of = {patient: k for k, part in enumerate((split.test, *split.folds)) for patient in part}
    parts = pd.Series(part_of).groupby(person).nunique()
    if apart := sorted(person.index[person.isin(parts.index[parts > 1])]):
        raise RlvoError(
            f"rows of one person are in more than one part: {named(apart)}",
            where="split",
            fix="Put them in one center or list, or keep one row a person",
        )


def check_split(split: Split, label: pd.Series) -> None:
    """Refuse a split that names unknown patients, leaves patients out, or has a part with one class only.

    Raises:
        RlvoError: naming the part and up to five patients.
    """
    everyone = {*split.test, *split.development}
    if unknown := sorted(everyone - set(label.index)):
        raise RlvoError(f"patients that are not in the cohort: {named(unknown)}", where="split", fix="Make a new split")
    if left_out := sorted(set(label.index) - everyone):
        raise RlvoError(f"patients in no part: {named(left_out)}", where="split", fix="Make a new split")
    for name, part in [("test set", split.test), *((f"fold {k}", fold) for k, fold in enumerate(split.folds))]:
        if label[list(part)].nunique() < 2:
            raise RlvoError(
                f"the {name} holds one class only: {named(part)}", where="split", fix="Use fewer folds or more patients"
            )


def write_split(split: Split, path: Path) -> None:
    """Write the split and its hash as JSON, atomically."""
    atomic_write(path, json.dumps({"hash": split.hash, **split.model_dump(mode="json")}, indent=1))


def read_split(path: Path) -> Split:
    """Read a split. Raises RlvoError where the file is missing, damaged, or was edited after it was written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stored = content.pop("hash")
        split = Split.model_validate(content)
    except FileNotFoundError:
        raise RlvoError("no such split file", where=path) from None
    except ValidationError as error:
        reason = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise RlvoError(f"not a split file: {reason}", where=path, fix="Make a new split") from None
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise RlvoError(f"not a split file ({type(error).__name__})", where=path, fix="Make a new split") from None
    if stored != split.hash:
        raise RlvoError("the split was edited after it was written", where=path, fix="Restore it or make a new split")
    return split
