"""Whether patients of a table belong to a study: which were held out there, and which it was developed on."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rlvo.cohort.reading import examine_table
from rlvo.cohort.splits import read_split
from rlvo.cohort.tables import read_table
from rlvo.cohort.variables import source_columns
from rlvo.errors import RlvoError
from rlvo.study.folder import StudyFolder, read_config


@dataclass(frozen=True)
class SharedPatients:
    """Patients of a table who also belong to a study."""

    study: str
    split_hash: str
    test: tuple[str, ...]
    development: tuple[str, ...]


def shared_patients(table: pd.DataFrame, studies: Iterable[StudyFolder]) -> list[SharedPatients]:
    """For each study that was split, the patients of the table who also belong to it.

    The same id is the same patient unless a predictor differs; if a study's own table is gone, ids decide alone.
    Patients whose id was changed are not recognised.

    Args:
        table: checked rows, indexed by patient id.
        studies: the folders of the studies to look into.
    """
    found = []
    for study in studies:
        if study.split.is_file():
            config, split = read_config(study), read_split(study.split)
            same = _same_patients(table, config.cohort.table, source_columns(config.cohort.predictors))
            parts = ({*part} for part in (split.test, split.development))
            test, development = (tuple(patient for patient in same if patient in part) for part in parts)
            found.append(SharedPatients(config.name, split.hash, test, development))
    return found


def _same_patients(table: pd.DataFrame, own: Path | None, predictors: Iterable[str]) -> list[str]:
    """Patients of `table` whose id is also in the study's table, and for whom no predictor has another value there."""
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
