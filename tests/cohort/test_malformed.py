"""Every malformed table of the catalogue is refused with what is wrong and where; none is accepted."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from malformed import MALFORMED, Malformed, csv, workbook, written

from rlvo.cohort.reading import read_cohort
from rlvo.errors import CohortError, RlvoError


@pytest.fixture
def full(rows: pd.DataFrame) -> pd.DataFrame:
    """The sound rows with the optional columns, volumes left out."""
    return rows.assign(etiology="other", admission_date="2021-05-04", rlvo="")


def test_there_are_many_and_the_rows_they_spoil_are_sound(tmp_path: Path, full: pd.DataFrame) -> None:
    assert len(MALFORMED) >= 60
    for path in (written(tmp_path, csv(full)), workbook(lambda book: None, "").write(tmp_path, full)):
        assert len(read_cohort(path, need_volumes=False).table) == 40


@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_table_is_refused(malformed: Malformed, tmp_path: Path, full: pd.DataFrame) -> None:
    path = malformed.write(tmp_path, full)
    with pytest.raises(RlvoError) as caught:
        read_cohort(path, need_volumes=False)
    told = str(caught.value)
    assert caught.value.exit_code == 2
    assert re.search(malformed.says, told), told
    assert str(path) in told
    assert all(finding.what and "\n" not in str(finding) for finding in getattr(caught.value, "findings", ()))
    assert told.count("\n") == len(caught.value.findings) if isinstance(caught.value, CohortError) else "\n" not in told
