from pathlib import Path

import pytest
from support.malformed import IDS, VALUES, check_refused

from rlvo.cohort.consistency import _near_duplicates

SUSPICIOUS = {**IDS, **VALUES}


@pytest.mark.parametrize("name", SUSPICIOUS)
def test_a_table_that_is_suspicious_as_a_whole_is_refused(name: str, tmp_path: Path) -> None:
    check_refused(SUSPICIOUS[name], tmp_path)


@pytest.mark.parametrize(
    ("a", "b"),
    [("P-01", "P01"), ("p 1", "P_1"), ("A\u20117", "A-7"), ("M\u00fcller", "Mu\u0308ller"), ("a\u200b1", "A1"),
     ("1-2", "12"), ("2024-001", "2024 001"), ("\uff21\uff11", "A1"), ("1\u20132", "1-2")],
)  # fmt: skip
def test_ids_that_may_be_one_patient_are_suspected_twins(a: str, b: str) -> None:
    for ids in ([a, b], [b, a]):
        [finding] = list(_near_duplicates(ids, "patient_id"))
        assert finding.field == "patient_id"
        assert finding.patient in ids


def test_ids_of_centers_and_patients_are_no_twins() -> None:
    ids = [f"{center}-{patient}" for center in range(1, 15) for patient in range(1, 40)]
    assert not list(_near_duplicates([*ids, "A1", "B1", "Muller", "M\u00fcller", "A1B", "1.1"], "patient_id"))
