import pytest

from rlvo.config.model import Configuration, ModelConfig, TrainingConfig


def test_a_configurations_key_is_its_content() -> None:
    one, same = Configuration(), Configuration.model_validate({"model": {}, "training": {"epochs": 60}})
    assert one.key == same.key
    other = one.model_copy(update={"training": TrainingConfig(epochs=61)})
    assert one.key != other.key == Configuration(training=TrainingConfig(epochs=61)).key


def test_keys_stay_what_they_were_when_studies_were_started() -> None:
    assert Configuration().key == "9d6edcb3769e"


@pytest.mark.parametrize(
    ("modality", "prior", "channels"),
    [("NCCT", False, ("ncct",)), ("CTA", True, ("cta", "vessels")), ("BOTH", True, ("ncct", "cta", "vessels"))],
)
def test_channels_and_label_follow_the_spec(modality: str, prior: bool, channels: tuple[str, ...]) -> None:
    model = ModelConfig.model_validate({"modality": modality, "prior": prior, "fusion": "concat"})
    assert model.channels == channels
    label = f"densenet169 {modality} +prior concat" if prior else f"densenet169 {modality} concat"
    assert Configuration(model=model).label == label
