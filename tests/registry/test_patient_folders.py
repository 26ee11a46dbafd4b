from pathlib import Path

import pandas as pd
import pytest

from rlvo.cohort.tables import RawTable
from rlvo.errors import CohortError, RlvoError
from rlvo.registry.patient_folders import read_patient_folders


def test_patient_folders_are_read_as_a_table(tmp_path: Path) -> None:
    for name in ("7/ncct.nii.gz", "7/CTA-1.0mm/1.dcm", "7/ncct.json", "007/cta.nii", ".cache/cta.nii", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    clinical = RawTable(pd.DataFrame({"patient_id": ["7 ", "8"], "age": ["70,5", "60"], "cta": ["x", "y"]}), True)
    raw, notes = read_patient_folders(tmp_path, clinical)
    assert raw.decimal_comma
    rows = raw.cells.astype(object).where(raw.cells.notna(), None).to_dict("records")
    assert rows == [
        {"patient_id": "007", "ncct": None, "cta": "007/cta.nii", "vessels": None, "age": None},
        {"patient_id": "7", "ncct": "7/ncct.nii.gz", "cta": "7/CTA-1.0mm", "vessels": None, "age": "70,5"},
    ]
    assert notes == ["patient 8 has no folder and is left out", "patient 007 has no clinical row"]


def test_folders_and_clinical_rows_that_are_ambiguous_are_refused(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    with pytest.raises(RlvoError, match="no patients' folders"):
        read_patient_folders(tmp_path / "7")
    twice = RawTable(pd.DataFrame({"patient_id": ["7", "7"]}), False)
    with pytest.raises(RlvoError, match="more than one clinical row for 7"):
        read_patient_folders(tmp_path, twice)
    for name in ("ncct.nii.gz", "ncct_bone.nii"):
        (tmp_path / "7" / name).touch()
    with pytest.raises(CohortError, match=r"patient 7, ncct: it is ambiguous .*: ncct.nii.gz, ncct_bone.nii"):
        read_patient_folders(tmp_path)
