"""Stratified hold-out and folds, fixed in a file whose hash every trial, member and registered model carries."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from pydantic import ValidationError, model_validator

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
            raise ValueError(f"patients in more than one part: {_some(twice)}")
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


def make_split(label: pd.Series, folds: FoldsConfig) -> Split:
    """Stratified hold-out, then stratified folds in the rest (sections 2.3–2.4). Independent of the table's row order.

    Args:
        label: 0 or 1 a patient, indexed by patient id.

    Raises:
        RlvoError: too few patients of a class for every part to hold both classes.
    """
    from sklearn.model_selection import StratifiedKFold, train_test_split

    label = label.sort_index()
    counts = label.value_counts().reindex([0, 1], fill_value=0)
    if counts.min() < folds.folds + 1:
        raise RlvoError(
            f"{counts[1]} rLVO and {counts[0]} other patients are too few for a test set and {folds.folds} folds",
            where="split",
            fix=f"At least {folds.folds + 1} patients of each class are needed",
        )
    try:
        development, test = train_test_split(
            label.index.to_numpy(), test_size=folds.test_fraction, stratify=label, random_state=folds.seed
        )
    except ValueError as error:
        raise RlvoError(f"no test set of {folds.test_fraction:.0%} can be drawn ({error})", where="split") from None
    development = sorted(development)
    if label[development].value_counts().reindex([0, 1], fill_value=0).min() < folds.folds:
        raise RlvoError(
            f"a class has fewer than {folds.folds} patients outside the test set", where="split", fix="Use fewer folds"
        )
    splitter = StratifiedKFold(folds.folds, shuffle=True, random_state=folds.seed)
    parts = [[development[i] for i in rows] for _, rows in splitter.split(development, label[development])]
    split = Split(test=tuple(sorted(test)), folds=tuple(tuple(part) for part in parts))
    check_split(split, label)
    return split


def check_split(split: Split, label: pd.Series) -> None:
    """Refuse a split that names unknown patients, leaves patients out, or has a part with one class only.

    Raises:
        RlvoError: naming the part and up to five patients.
    """
    everyone = {*split.test, *split.development}
    if unknown := sorted(everyone - set(label.index)):
        raise RlvoError(f"patients that are not in the cohort: {_some(unknown)}", where="split", fix="Make a new split")
    if left_out := sorted(set(label.index) - everyone):
        raise RlvoError(f"patients in no part: {_some(left_out)}", where="split", fix="Make a new split")
    for name, part in [("test set", split.test), *((f"fold {k}", fold) for k, fold in enumerate(split.folds))]:
        if label[list(part)].nunique() < 2:
            raise RlvoError(
                f"the {name} holds one class only: {_some(part)}", where="split", fix="Use fewer folds or more patients"
            )


def _some(patients: Iterable[str]) -> str:
    names = list(patients)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


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
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, KeyError, TypeError, ValidationError) as error:
        raise RlvoError(f"not a split file ({type(error).__name__})", where=path, fix="Make a new split") from None
    if stored != split.hash:
        raise RlvoError("the split was edited after it was written", where=path, fix="Restore it or make a new split")
    return split
