import pytest

from rlvo.config.space import Choices, Range
from rlvo.config.study import StudyConfig
from rlvo.ensemble.selection import searched_modalities


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


def points(*chosen: dict[str, object], **settings: object) -> StudyConfig:
    return StudyConfig.model_validate({"name": "p", "space": {"points": chosen}, **settings})


def test_points_are_the_configurations_and_no_others() -> None:
    first = {"model.modality": "NCCT", "model.fusion": "none"}
    second = {"model.modality": "CTA", "model.fusion": "daft", "model.daft.bottleneck_ratio": 3}
    study = points(first, second)
    assert (study.combinations(), study.grid_points(), study.configurations) == ([first, second], [first, second], 2)
    assert study.space.enumerated == {
        "model.modality": ("NCCT", "CTA"),
        "model.fusion": ("none", "daft"),
        "model.daft.bottleneck_ratio": (3,),
    }
    assert searched_modalities(study) == ("NCCT", "CTA")
    assert StudyConfig.model_validate_json(study.model_dump_json()) == study
    assert '"points"' not in StudyConfig(name="p").model_dump_json()  # the hash of what was started before stays


def test_points_that_say_too_little_or_the_impossible_are_refused() -> None:
    with pytest.raises(ValueError, match=r"point 2 lacks model\.fusion"):
        points({"model.modality": "NCCT", "model.fusion": "none"}, {"model.modality": "CTA"})
    with pytest.raises(ValueError, match=r"model\.modality cannot be 'MRI'"):
        points({"model.modality": "MRI"})
    with pytest.raises(ValueError, match="points or axes to enumerate, not both"):
        StudyConfig.model_validate(
            {"name": "p", "space": {"points": [{"model.prior": True}], "enumerate": {"model.prior": [True]}}}
        )
