"""A number and its bound never look the same unless they are."""

import pytest

from rlvo.digits import gigabytes, tell_apart


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_different_numbers_look_different_and_equal_ones_alike(digits: int) -> None:
    def write(value: float, more: int) -> str:
        return f"{value:.{digits + more}f}"

    assert tell_apart(write, 207.0, 19.5) == (f"{207:.{digits}f}", f"{19.5:.{digits}f}")
    assert len({*tell_apart(write, 207.0, 207.0)}) == 1
    for step in (0.3, 1e-3, 1e-9):
        own, bound = tell_apart(write, 207.04 + step, 207.04)
        assert float(own) > float(bound)
    assert gigabytes(11_049_999_999, 11_049_999_998) == ("11.049999999 GB", "11.049999998 GB")
