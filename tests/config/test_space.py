import pytest

from rlvo.config.space import Choices, Range


def test_a_range_has_its_ends_and_every_step_between_them() -> None:
    assert Range(low=0.0, high=0.5, step=0.1).grid() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert Range(low=2, high=9, step=3).grid() == [2, 5, 8]
    assert Range(low=1, high=3).grid() == [1, 2, 3]
    assert Choices(choices=("a", 1)).grid() == ["a", 1]
    for continuous in (Range(low=0.0, high=1.0), Range(low=1, high=100, log=True)):
        with pytest.raises(ValueError, match="needs a step"):
            continuous.grid()


def test_an_axis_holds_what_it_can_take() -> None:
    axis = Range(low=1e-5, high=1e-3, log=True)
    assert [axis.holds(value) for value in (1e-6, 1e-5, 1e-3, 1, "a")] == [False, True, True, False, False]
    assert [Choices(choices=(3, 7)).holds(value) for value in (3, 5)] == [True, False]
