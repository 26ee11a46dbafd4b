import numpy as np
import pytest
import torch
from support.networks import enliven, narrow

from rlvo.explain import fixed_image
from rlvo.explain.fixed_image import FixedImages
from rlvo.models.classifier import Classifier
from rlvo.training.member import predict_logits


@pytest.mark.parametrize("fusion", ["daft", "film", "concat", "offset", "none"])
def test_logits_are_those_of_the_whole_network(fusion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    classifier = enliven(Classifier(narrow("resnet18", modality="NCCT", fusion=fusion), 3))
    volumes, table = torch.randn(5, 1, 16, 16, 16), np.random.default_rng(0).random((5, 3), np.float32)
    images = FixedImages.of(classifier, volumes, batch=2)
    np.testing.assert_allclose(images.logits(table), predict_logits(classifier, volumes, table, 5), atol=1e-6)
    monkeypatch.setattr(fixed_image, "CHUNK_BYTES", 1)
    patients = np.array([4, 4, 0])
    expected = predict_logits(classifier, volumes[patients], table[:3], 3)
    np.testing.assert_allclose(images.logits(table[:3], patients), expected, atol=1e-6)
