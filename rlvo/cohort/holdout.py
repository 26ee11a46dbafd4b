"""Who is held out for the test: stratified at random, the last admitted, whole centers, or a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from rlvo.config.study import FoldsConfig
from rlvo.errors import RlvoError


def units(context: pd.DataFrame) -> pd.Series:
    """Whose row each is, by patient id: `person` where the table has it and the cell is filled, else the id itself."""
    ids = pd.Series(context.index, index=context.index)
    return context["person"].fillna(ids) if "person" in context else ids


def holdout(label: pd.Series, context: pd.DataFrame, person: pd.Series, folds: FoldsConfig) -> list[str]:
    """Patients of the test set.

    Args:
        label: 0 or 1 a patient, sorted by patient id.
        context: the columns `admission_date` and `center` of these patients, as far as the hold-out needs them.
        person: whose row each is (`units`).
        folds: how to hold out.

    Raises:
        RlvoError: a date or center is missing, a center or patient is unknown, or the fraction leaves a class out.
    """
    if folds.holdout == "temporal":
        chosen = _last(column_of(context, "admission_date", "temporal"), person, folds.test_fraction)
    elif folds.holdout == "center":
        chosen = _of_centers(column_of(context, "center", "center"), folds.test_centers)
    elif folds.test_patients is not None:
        chosen = _listed(folds.test_patients, label.index)
    else:
        chosen = _random(label, person, folds)
    return sorted(chosen)


def column_of(context: pd.DataFrame, name: str, needed_by: str) -> pd.Series:
    """A column that every patient must have a value in. Raises RlvoError naming up to five who have none."""
    if name not in context:
        raise RlvoError(f"the split '{needed_by}' needs the column {name}", where="folds", fix="Add the column")
    if without := list(context.index[context[name].isna()]):
        raise RlvoError(
            f"the split '{needed_by}' needs {name} of every patient; it is missing for {named(without)}",
            where="folds",
            fix="Fill it in",
        )
    return context[name]


def named(names: Iterable[object]) -> str:
    """Up to five names, and how many more there are."""
    listed = list(map(str, names))
    return (", ".join(listed[:5]) or "none") + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


def _random(label: pd.Series, person: pd.Series, folds: FoldsConfig) -> Iterable[str]:
    """Stratified over persons; one is rLVO where any of their rows is."""
    from sklearn.model_selection import train_test_split

    per_person = label.groupby(person).max()
    try:
        _, chosen = train_test_split(
            per_person.index.to_numpy(), test_size=folds.test_fraction, stratify=per_person, random_state=folds.seed
        )
    except ValueError as error:
        raise RlvoError(f"no test set of {folds.test_fraction:.0%} can be drawn ({error})", where="split") from None
    return person.index[person.isin(chosen)]


def _last(dates: pd.Series, person: pd.Series, fraction: float) -> Iterable[str]:
    """Whoever was admitted on or after the date from which on about `fraction` were; a person by the last admission."""
    last = dates.groupby(person).transform("max")
    first_test_date = last.sort_values().iloc[-max(round(fraction * len(last)), 1)]
    return last.index[last >= first_test_date]


def _of_centers(centers: pd.Series, chosen: tuple[str, ...]) -> Iterable[str]:
    known = sorted(centers.unique())
    if unknown := [name for name in chosen if name not in known]:
        raise RlvoError(
            f"no patient is of center {named(unknown)}", where="folds.test_centers", fix=f"Centers: {named(known)}"
        )
    return centers.index[centers.isin(chosen)]


def _listed(path: Path, known: pd.Index) -> Iterable[str]:
    try:
        listed = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RlvoError(f"the list of test patients cannot be read ({error})", where=path) from None
    if twice := [patient for patient, count in Counter(listed).items() if count > 1]:
        raise RlvoError(f"patients listed twice: {named(twice)}", where=path, fix="List each once")
    if unknown := [patient for patient in listed if patient not in known]:
        raise RlvoError(
            f"patients that are not among those included: {named(unknown)}",
            where=path,
            fix="Write ids as in the table, one a line, and remove who is excluded",
        )
    if not listed:
        raise RlvoError("lists no patients", where=path, fix="Write a patient id a line")
    return listed
