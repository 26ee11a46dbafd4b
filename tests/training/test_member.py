from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.networks import BACKBONES, narrow

from rlvo.config.model import BackboneName
from rlvo.errors import RlvoError
from rlvo.models.classifier import Classifier
from rlvo.training.dataset import Patients, Volumes
from rlvo.training.member import load_classifier, predict_logits, predict_probabilities, read_ahead

CONFIG = narrow(fusion="concat", dropout=0.3)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_predictions_do_not_depend_on_the_batch(backbone: BackboneName) -> None:
    torch.manual_seed(0)
    classifier = Classifier(narrow(backbone, fusion="concat", dropout=0.3), 4)
    volumes, tabular = torch.randn(7, 2, 32, 32, 32), np.random.default_rng(0).random((7, 4))
    together = predict_probabilities(classifier, volumes, tabular, 7)
    for batch in (1, 3):
        np.testing.assert_allclose(
            predict_probabilities(classifier, volumes, tabular, batch), together, rtol=0, atol=1e-6
        )
    assert len(set(together)) == 7
    logits = predict_logits(classifier, volumes, tabular, 7).double()
    np.testing.assert_allclose(together, 1 / (1 + np.exp(-logits.numpy())))


def test_reading_ahead_takes_one_thread_whatever_the_trials_share(tmp_path: Path) -> None:
    """It starts no OpenMP threads of its own, which would take the cores of the network's."""
    volume, before = np.ones((64, 64, 64), np.uint8), torch.get_num_threads()
    for patient in range(8):
        (tmp_path / str(patient)).mkdir()
        np.save(tmp_path / str(patient) / "ncct.npy", volume)
    ids = tuple(map(str, range(8)))
    patients = Patients(ids, tuple(tmp_path / name for name in ids), np.zeros((8, 0), np.float32), np.zeros(8))
    try:
        torch.set_num_threads(4)
        torch.ones(1 << 20).add_(1)  # starts the network's own
        started = len(list(Path("/proc/self/task").iterdir()))
        reading = []
        for part in read_ahead(Volumes(patients, ["ncct"]), torch.arange(8).split(1), torch.device("cpu")):
            reading.append(len(list(Path("/proc/self/task").iterdir())))
            assert part.float().sum() == volume.size
    finally:
        torch.set_num_threads(before)
    assert max(reading) <= started + 1


def test_loaded_classifier_equals_the_saved_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = Classifier(CONFIG, 4)
    classifier.standardise_with([40, 90], [8, 50])
    volumes, tabular = torch.randn(3, 2, 32, 24, 20) * 50, np.zeros((3, 4))
    save_file(classifier.state_dict(), tmp_path / "model.safetensors")
    loaded = load_classifier(tmp_path / "model.safetensors", CONFIG, 4)
    assert not loaded.training
    expected = predict_probabilities(classifier, volumes, tabular)
    np.testing.assert_array_equal(predict_probabilities(loaded, volumes, tabular), expected)


def test_weights_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(RlvoError, match="weights are missing"):
        load_classifier(path, CONFIG, 4)
    save_file(Classifier(CONFIG, 5).state_dict(), path)
    with pytest.raises(RlvoError, match="another model"):
        load_classifier(path, CONFIG, 4)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RlvoError, match="damaged"):
        load_classifier(path, CONFIG, 4)


def test_one_of_many_members_is_loaded_from_their_file(tmp_path: Path) -> None:
    classifiers = {"a": Classifier(CONFIG, 4), "b": Classifier(CONFIG, 4)}
    path = tmp_path / "members.safetensors"
    save_file({f"{m}/{name}": each for m, c in classifiers.items() for name, each in c.state_dict().items()}, path)
    loaded = load_classifier(path, CONFIG, 4, member="b")
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, classifiers["b"].state_dict()[name])
    path.write_bytes(b"0" * path.stat().st_size)  # what was loaded does not depend on the file
    assert torch.equal(loaded.head.weight, classifiers["b"].head.weight)
    with pytest.raises(RlvoError, match="damaged"):
        load_classifier(path, CONFIG, 4, member="b")


def test_bfloat16_is_near() -> None:
    torch.manual_seed(0)
    classifier = Classifier(CONFIG, 4)
    volumes, tabular = torch.randn(3, 2, 32, 32, 32), np.random.default_rng(0).random((3, 4))
    exact, rough = (predict_probabilities(classifier, volumes, tabular, precision=p) for p in ("float32", "bfloat16"))
    assert 0 < abs(rough - exact).max() < 0.02
