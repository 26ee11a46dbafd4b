import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rlvo.config.model import DenseNetOptions, EfficientNetOptions, ModelConfig, ResNetOptions
from rlvo.errors import RlvoError
from rlvo.models.classifier import build_classifier
from rlvo.training.member import load_classifier, predict_logits, predict_probabilities

CONFIG = ModelConfig(
    backbone="densenet121",
    densenet=DenseNetOptions(init_features=8, growth_rate=8, block_config=(3, 3), stem_kernel=3),
    efficientnet=EfficientNetOptions(width=0.25, depth=0.5),
    resnet=ResNetOptions(widths=(4, 8, 8, 16)),
    fusion="concat",
    dropout=0.3,
)


@pytest.mark.parametrize("backbone", ["densenet121", "efficientnet-b0", "resnet18"])
def test_predictions_do_not_depend_on_the_batch(backbone):
    torch.manual_seed(0)
    classifier = build_classifier(CONFIG.model_copy(update={"backbone": backbone}), 4)
    volumes, tabular = torch.randn(7, 2, 32, 32, 32), np.random.default_rng(0).random((7, 4))
    together = predict_probabilities(classifier, volumes, tabular, 7)
    for batch in (1, 3):
        np.testing.assert_allclose(
            predict_probabilities(classifier, volumes, tabular, batch), together, rtol=0, atol=1e-6
        )
    assert len(set(together)) == 7
    logits = predict_logits(classifier, volumes, tabular, 7).double()
    np.testing.assert_allclose(together, 1 / (1 + np.exp(-logits.numpy())))


def test_loaded_classifier_equals_the_saved_one(tmp_path):
    torch.manual_seed(0)
    classifier = build_classifier(CONFIG, 4)
    classifier.standardise_with([40, 90], [8, 50])
    volumes, tabular = torch.randn(3, 2, 32, 24, 20) * 50, np.zeros((3, 4))
    (tmp_path / "best").mkdir()
    save_file(classifier.state_dict(), tmp_path / "best" / "model.safetensors")
    expected = predict_probabilities(classifier, volumes, tabular)
    for place in (tmp_path, tmp_path / "best" / "model.safetensors"):
        loaded = load_classifier(place, CONFIG, 4)
        assert not loaded.training
        np.testing.assert_array_equal(predict_probabilities(loaded, volumes, tabular), expected)


def test_weights_that_cannot_be_used_are_told(tmp_path):
    with pytest.raises(RlvoError, match="no weights"):
        load_classifier(tmp_path, CONFIG, 4)
    path = tmp_path / "model.safetensors"
    save_file(build_classifier(CONFIG, 5).state_dict(), path)
    with pytest.raises(RlvoError, match="another model"):
        load_classifier(path, CONFIG, 4)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RlvoError, match="damaged"):
        load_classifier(path, CONFIG, 4)


def test_of_many_members_in_one_file_the_one_that_is_asked_for_is_loaded(tmp_path):
    classifiers = {"a": build_classifier(CONFIG, 4), "b": build_classifier(CONFIG, 4)}
    path = tmp_path / "members.safetensors"
    save_file({f"{m}/{name}": each for m, c in classifiers.items() for name, each in c.state_dict().items()}, path)
    loaded = load_classifier(path, CONFIG, 4, member="b")
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, classifiers["b"].state_dict()[name])
    path.write_bytes(b"0" * path.stat().st_size)  # what was loaded does not hang on the file
    assert torch.equal(loaded.head.weight, classifiers["b"].head.weight)
    with pytest.raises(RlvoError, match="damaged"):
        load_classifier(path, CONFIG, 4, member="b")


def test_bfloat16_is_near():
    torch.manual_seed(0)
    classifier = build_classifier(CONFIG, 4)
    volumes, tabular = torch.randn(3, 2, 32, 32, 32), np.random.default_rng(0).random((3, 4))
    exact, rough = (predict_probabilities(classifier, volumes, tabular, precision=p) for p in ("float32", "bfloat16"))
    assert 0 < abs(rough - exact).max() < 0.02
