"""A trained member: load its weights, and predict as training, evaluation and inference all do."""

from collections.abc import Callable, Generator, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from scipy.special import expit
from torch import Tensor

from rlvo.config.model import ModelConfig
from rlvo.errors import RlvoError
from rlvo.models.classifier import Classifier

Precision = Literal["float32", "bfloat16"]


class VolumeSequence(Sized, Protocol):
    """Volumes [N, C, X, Y, Z]: a tensor, or `training.dataset.Volumes`."""

    def __getitem__(self, indices: slice | Tensor, /) -> Tensor: ...


def load_classifier(
    weights: Path, config: ModelConfig, tabular_features: int, *, member: str | None = None
) -> Classifier:
    """Load a classifier from a safetensors file, ready to predict.

    Args:
        weights: the file.
        config, tabular_features: the model that the weights belong to.
        member: whose weights to read from a file of several members, whose tensors are named `<member>/<tensor>`.

    Raises:
        RlvoError: the file is missing or damaged, or belongs to another model.
    """
    with torch.device("meta"):  # no time is spent on random weights
        classifier = Classifier(config, tabular_features)
    try:
        classifier.load_state_dict(_tensors(weights, f"{member}/" if member else ""), assign=True)
    except FileNotFoundError:
        raise RlvoError("the weights are missing", where=weights) from None
    except SafetensorError:
        raise RlvoError("the weights are damaged", where=weights, fix="Train or register the member again") from None
    except RuntimeError:  # names or shapes differ
        raise RlvoError("the weights belong to another model", where=weights) from None
    return classifier.eval()


def _tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        # Copies, because the tensors are mapped memory, which would change with the file.
        return {name.removeprefix(prefix): file.get_tensor(name).clone() for name in names}


def predict_logits(
    classifier: Classifier,
    volumes: VolumeSequence,
    tabular: np.ndarray,
    batch: int,
    precision: Precision = "float32",
    *,
    ask: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Logits [N] in fp32 on the CPU, computed on the classifier's device, without TF32.

    Apart from rounding, a patient's logit does not depend on the others in the batch. The classifier is left in
    evaluation mode.

    Args:
        classifier: a trained classifier.
        volumes: [N, C, X, Y, Z], channels in the model's order.
        tabular: encoded table [N, T].
        batch: patients per batch.
        precision: bfloat16 means autocast.
        ask: what to compute of a batch of volumes and encoded tables instead of the logits [B].
    """
    device = classifier.channel_mean.device
    table = torch.as_tensor(tabular, dtype=torch.float32)
    parts = [slice(start, start + batch) for start in range(0, len(volumes), batch)]
    classifier.eval()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with torch.inference_mode(), full_precision(), autocast:
        read = zip(read_ahead(volumes, parts, device), parts, strict=True)
        logits = [(ask or classifier)(volume, table[part].to(device)).float() for volume, part in read]
    return torch.cat(logits).cpu()


def read_ahead(
    volumes: VolumeSequence, parts: Sequence[slice | Tensor], device: torch.device
) -> Generator[Tensor, None, None]:
    """The volumes of each part of the patients, on the device; while one is used, the next one is read."""

    def read(part: slice | Tensor) -> Tensor:
        chosen = volumes[part]
        return chosen.pin_memory() if device.type == "cuda" else chosen

    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, parts[0])
        for following in (*parts[1:], None):
            volume = coming.result()
            if following is not None:
                coming = reader.submit(read, following)
            yield volume.to(device, non_blocking=True)


def predict_probabilities(
    classifier: Classifier,
    volumes: VolumeSequence,
    tabular: np.ndarray,
    batch: int = 8,
    precision: Precision = "float32",
) -> np.ndarray:
    """Probabilities of rLVO [N] float64; see `predict_logits`."""
    logits = predict_logits(classifier, volumes, tabular, batch, precision).numpy()
    return np.asarray(expit(logits.astype(np.float64)))


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute fp32 products and convolutions without TF32 inside the context."""
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        cudnn = torch.backends.cudnn
        kept = {"benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
        with cudnn.flags(enabled=True, allow_tf32=False, **kept):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
