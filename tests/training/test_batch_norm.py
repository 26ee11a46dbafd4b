"""Validation uses the running statistics of batch norm: after few steps they must fit the network that was trained."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import binary_cross_entropy_with_logits

from rlvo.config.model import ModelConfig
from rlvo.models.classifier import Classifier
from rlvo.training.member import predict_logits

STEPS, BATCH = 60, 4


def train(momentum: float | None) -> tuple[float, float]:
    """Train a small EfficientNet for 60 steps: its last training losses, and its AUC on the training patients."""
    torch.manual_seed(0)
    labels, volumes = torch.arange(48) % 2, torch.randn(48, 1, 20, 16, 12) / 2
    volumes[labels == 1, :, 5:13, 4:12, 2:10] += 2
    options = {"width": 0.25, "depth": 0.3} | ({} if momentum is None else {"batch_norm_momentum": momentum})
    spec = {"backbone": "efficientnet-b0", "modality": "NCCT", "fusion": "none", "efficientnet": options}
    classifier = Classifier(ModelConfig.model_validate(spec), 0)
    optimizer, losses = torch.optim.Adam(classifier.parameters(), lr=1e-3), []
    for batch in torch.cat([torch.randperm(48) for _ in range(STEPS * BATCH // 48)]).split(BATCH):
        loss = binary_cross_entropy_with_logits(classifier.train()(volumes[batch]), labels[batch].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    logits = predict_logits(classifier, volumes, np.empty((48, 0)), batch=16)
    return float(np.mean(losses[-12:])), float(roc_auc_score(labels, logits))


@pytest.mark.slow
def test_what_is_validated_after_few_steps_is_what_was_trained() -> None:
    as_monai, ours = train(0.01), train(None)
    assert as_monai[0] == ours[0] < 0.55, "the training itself does not use the statistics"
    assert as_monai[1] < 0.65, "at chance on the very patients it was trained on"
    assert ours[1] > 0.95
