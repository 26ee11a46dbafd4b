"""Errors read as one line a finding and survive the trip back from a worker process."""

import pickle

from rlvo.errors import CohortError, Finding, MachineError, RlvoError


def test_errors_survive_pickling() -> None:
    for error in (
        RlvoError("what", where="where", fix="fix"),
        MachineError("disk full"),
        CohortError([Finding("7", "age", "is 130", "0 to 120 years")], where="cohort.csv"),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
        assert copy.exit_code == error.exit_code


def test_errors_say_what_where_and_how_to_fix_it_and_list_every_finding() -> None:
    cut = RlvoError("is truncated", where="a.nii.gz", fix="Copy it again")
    assert str(cut) == "a.nii.gz: is truncated. Copy it again"
    error = CohortError([Finding("7", "age", "is 130"), Finding(None, "nihss", "column is missing")])
    assert str(error).splitlines() == ["2 finding(s)", "  patient 7, age: is 130", "  nihss: column is missing"]
