"""A trained member: loading its weights, and the predictions that training, evaluation and inference share."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy.special import expit
from torch import Tensor

from rlvo.config.model import ModelConfig
from rlvo.errors import RlvoError
from rlvo.models.classifier import Classifier, build_classifier
from rlvo.training.records import BEST_WEIGHTS


class VolumeSequence(Sized, Protocol):
    """Volumes [N, C, X, Y, Z]: a tensor, or `training.dataset.Volumes`."""

    def __getitem__(self, indices: slice, /) -> Tensor: ...


def load_classifier(weights: Path, config: ModelConfig, tabular_features: int) -> Classifier:
    """The classifier with the weights of a safetensors file, or with a trial folder's best ones, ready to predict.

    Raises RlvoError where the file is missing or damaged, or belongs to another model.
    """
    path = weights / BEST_WEIGHTS if weights.is_dir() else weights
    classifier = build_classifier(config, tabular_features)
    try:
        classifier.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise RlvoError("there are no weights", where=path) from None
    except SafetensorError:
        raise RlvoError("the weights are damaged", where=path, fix="Train or register the member again") from None
    except RuntimeError:  # names or shapes differ
        raise RlvoError("the weights belong to another model", where=path) from None
    return classifier.eval()


def predict_logits(classifier: Classifier, volumes: VolumeSequence, tabular: np.ndarray, batch: int) -> Tensor:
    """Logits [N] in fp32 on the CPU, computed on the classifier's device without autocast and TF32.

    A patient's logit does not depend on the others in the batch (to rounding). Leaves the classifier in evaluation
    mode.

    Args:
        classifier: a trained classifier.
        volumes: [N, C, X, Y, Z], channels in the model's order.
        tabular: encoded table [N, T].
        batch: how many patients at a time.
    """
    device = classifier.channel_mean.device
    table = torch.as_tensor(tabular, dtype=torch.float32)
    classifier.eval()
    with torch.inference_mode(), full_precision():
        parts = [
            classifier(volumes[i : i + batch].to(device, torch.float32), table[i : i + batch].to(device)).cpu()
            for i in range(0, len(volumes), batch)
        ]
    return torch.cat(parts)


def predict_probabilities(
    classifier: Classifier, volumes: VolumeSequence, tabular: np.ndarray, batch: int = 8
) -> np.ndarray:
    """Probabilities of rLVO [N] float64; see `predict_logits`."""
    return expit(predict_logits(classifier, volumes, tabular, batch).numpy().astype(np.float64))


@contextmanager
def full_precision() -> Iterator[None]:
    """fp32 products and convolutions without TF32, inside."""
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
