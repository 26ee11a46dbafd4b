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


def test_a_column_that_is_wrong_in_every_row_is_shown_in_part_and_counted() -> None:
    many = [Finding(str(i), "age", "is in months") for i in range(5000)]
    cut = [Finding(None, f"line {i}", "is cut") for i in range(5000)]
    error = CohortError([*many, Finding("7", "sex", "is Y"), *cut])
    lines = str(error).splitlines()
    assert lines[0] == "10001 finding(s)"
    assert len(lines) == 1002
    assert "  patient 7, sex: is Y" in lines
    assert lines[-1].startswith("  and 9001 more (found most in: age 5000, ")
