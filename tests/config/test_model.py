import json

import pytest

from rlvo.config.model import Configuration, ModelConfig
from rlvo.config.space import FieldPath, Space
from rlvo.config.training import TrainingConfig


def test_a_configurations_key_is_its_content() -> None:
    one, same = Configuration(), Configuration.model_validate({"model": {}, "training": {"epochs": 60}})
    assert one.key == same.key
    other = one.model_copy(update={"training": TrainingConfig(epochs=61)})
    assert one.key != other.key == Configuration(training=TrainingConfig(epochs=61)).key


def test_keys_stay_what_they_were_when_studies_were_started() -> None:
    assert Configuration().key == "9d6edcb3769e"
    changed = {"batch_norm_momentum": 0.3, "head_dropout": 0.1}
    densenet = Configuration.model_validate({"model": {"efficientnet": changed}})
    assert densenet.key == "9d6edcb3769e", "the options of another network"
    then = {"model": {"backbone": "efficientnet-b0", "modality": "CTA", "efficientnet": {}}, "training": {"epochs": 3}}
    old = Configuration.model_validate_json(json.dumps(then))
    assert old.key == "3acbd18b6e2d"
    assert set(json.loads(old.model_dump_json())["model"]["efficientnet"]) == {"width", "depth"}, "as written then"
    assert Configuration.model_validate_json(old.model_dump_json()) == old
    now = Configuration.model_validate(then)
    assert now.key != old.key
    assert Configuration.model_validate_json(now.model_dump_json()) == now


def test_a_batch_that_is_computed_whole_is_the_same_trial_whatever_its_largest_part() -> None:
    def trained(**training: object) -> Configuration:
        return Configuration.model_validate({"training": {"batch_size": 4, **training}})

    assert trained(micro_batch=4).key == trained(micro_batch=9).key == trained().key
    assert "micro_batch" not in json.loads(trained(micro_batch=4).model_dump_json())["training"], "as written before"
    split = trained(micro_batch=3)
    assert split.key != trained().key
    assert Configuration.model_validate_json(split.model_dump_json()) == split
    assert [trained(micro_batch=size).training.at_once for size in (None, 1, 3, 4, 9)] == [4, 1, 3, 4, 4]


def test_a_trial_that_must_repeat_on_a_gpu_is_another_one() -> None:
    repeats, plain = (Configuration(training=TrainingConfig(deterministic=asked)) for asked in (True, False))
    assert repeats.key != plain.key == "9d6edcb3769e"
    assert "deterministic" not in json.loads(plain.model_dump_json())["training"], "as written before"
    assert Configuration.model_validate_json(repeats.model_dump_json()) == repeats


@pytest.mark.parametrize(
    ("section", "option", "value"),
    [
        ("training", "ema", 0.99),
        ("training", "checkpoint", "auc"),
        ("training", "label_smoothing", 0.1),
        ("training", "restarts", 1),
        ("training", "repeat", 2),
        ("model", "norm", "group"),
    ],
)
def test_a_later_option_is_another_trial_only_if_it_is_used(section: str, option: str, value: object) -> None:
    used = Configuration.model_validate({section: {option: value}})
    assert used.key != Configuration().key
    assert Configuration.model_validate_json(used.model_dump_json()) == used
    assert option not in json.loads(Configuration().model_dump_json())[section], "as written before"


def test_pretrained_weights_are_part_of_a_configuration_by_their_hash_and_only_if_used() -> None:
    def made(**pretrained: object) -> Configuration:
        return Configuration.model_validate({"model": {"pretrained": pretrained}})

    one, other = made(sha256="a" * 64), made(sha256="b" * 64)
    assert len({one.key, other.key, Configuration().key}) == 3
    assert one == made(sha256="a" * 64, weights="somewhere/else.safetensors")
    assert "somewhere" not in one.model_dump_json()
    assert Configuration.model_validate_json(one.model_dump_json()) == one
    assert made(sha256="a" * 64, use=False) == Configuration()
    assert "pretrained" not in json.loads(Configuration().model_dump_json())["model"], "as written before"
    assert one.label == "densenet169 BOTH +pretrained daft"


def test_repeats_differ_in_nothing_but_their_number() -> None:
    one, other = (Configuration.model_validate({"training": {"repeat": n, "epochs": 3}}) for n in (0, 2))
    assert one.key != other.key
    assert other.first_repeat == one == one.first_repeat
    assert other.first_repeat.key == one.key
    assert (one.label, other.label) == ("densenet169 BOTH daft", "densenet169 BOTH daft #2")


def test_batch_norms_momentum_is_monais_only_in_files_from_before_it_was_an_option() -> None:
    efficientnet = {"backbone": "efficientnet-b0"}
    assert ModelConfig.model_validate(efficientnet).efficientnet.batch_norm_momentum == 0.1
    assert ModelConfig.model_validate_json(json.dumps(efficientnet | {"efficientnet": {}})).efficientnet == (
        ModelConfig.model_validate({"efficientnet": {"batch_norm_momentum": 0.01}}).efficientnet
    )


@pytest.mark.parametrize(
    ("backbone", "head", "expected"),
    [("efficientnet-b0", 0.2, 0.2), ("efficientnet-b0", None, 0.4), ("densenet169", 0.2, 0.4)],
)
def test_the_heads_dropout_is_efficientnets_own_if_it_has_one(backbone: str, head: float, expected: float) -> None:
    content = {"backbone": backbone, "dropout": 0.4, "efficientnet": {"head_dropout": head}}
    assert ModelConfig.model_validate(content).head_dropout == expected


def test_options_that_json_leaves_out_can_be_searched_for() -> None:
    axis: dict[FieldPath, dict[str, list[float]]] = {"model.efficientnet.head_dropout": {"choices": [0.0, 0.2]}}
    assert Space.model_validate({"sample": axis}).grid() == [{name: value} for name in axis for value in (0.0, 0.2)]
    assert Space.model_validate({"enumerate": {"training.micro_batch": [1, 2]}}).enumerated


@pytest.mark.parametrize(
    ("modality", "prior", "channels"),
    [("NCCT", False, ("ncct",)), ("CTA", True, ("cta", "vessels")), ("BOTH", True, ("ncct", "cta", "vessels"))],
)
def test_channels_and_label_follow_the_spec(modality: str, prior: bool, channels: tuple[str, ...]) -> None:
    model = ModelConfig.model_validate({"modality": modality, "prior": prior, "fusion": "concat"})
    assert model.channels == channels
    label = f"densenet169 {modality} +prior concat" if prior else f"densenet169 {modality} concat"
    assert Configuration(model=model).label == label
