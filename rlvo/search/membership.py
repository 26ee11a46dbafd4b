"""Whether patients of a table belong to a study: who was held out there, and who was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rlvo.cohort.reading import examine_table
from rlvo.cohort.splits import read_split
from rlvo.cohort.tables import read_table
from rlvo.cohort.variables import source_columns
from rlvo.errors import RlvoError
from rlvo.search.status import read_study
from rlvo.search.study import SPLIT


@dataclass(frozen=True)
class Shared:
    """Patients of a table who are a study's too."""

    study: str
    split_hash: str
    test: tuple[str, ...]
    development: tuple[str, ...]


def shared_patients(table: pd.DataFrame, studies: Iterable[Path]) -> list[Shared]:
    """For each study that was split, the table's patients who belong to it.

    The same id is the same patient unless a predictor says otherwise; where a study's own table is gone, ids decide
    alone. Who was renamed is not recognised.

    Args:
        table: checked rows, index patient id.
        studies: their folders.
    """
    found = []
    for folder in (folder for folder in studies if (folder / SPLIT).is_file()):
        study, split = read_study(folder), read_split(folder / SPLIT)
        same = _same(table, study.cohort.table, source_columns(study.cohort.predictors))
        test, development = ({*ids} for ids in (split.test, split.development))
        found.append(
            Shared(
                study.name,
                split.hash,
                tuple(patient for patient in same if patient in test),
                tuple(patient for patient in same if patient in development),
            )
        )
    return found


def _same(table: pd.DataFrame, own: Path | None, predictors: Iterable[str]) -> list[str]:
    """Patients of `table` who have their id in the study's table too, and no other value of a predictor."""
    try:
        raw = read_table(own) if own is not None else None
    except RlvoError:
        raw = None
    if raw is None:
        return list(table.index)
    known = examine_table(raw.cells, decimal_comma=raw.decimal_comma)[0]
    known = known[~known.index.duplicated()]
    both = table.index[table.index.isin(known.index)]
    columns = [name for name in predictors if name in table and name in known]
    here, there = table.loc[both, columns], known.loc[both, columns]
    differs = (here != there) & here.notna() & there.notna()
    return list(both[~differs.any(axis=1)])
