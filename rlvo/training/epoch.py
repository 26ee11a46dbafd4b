"""One epoch: a pass over the training patients in batches, then the metrics of the validation patients."""

import math
from contextlib import closing
from itertools import islice

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from rlvo.config.model import TrainingConfig
from rlvo.evaluation.metrics import classification_metrics
from rlvo.evaluation.thresholds import youden_threshold
from rlvo.models.classifier import Classifier
from rlvo.training.augmentation import Changes, flip_and_shift, jitter, side_columns
from rlvo.training.dataset import FoldData, Patients, Volumes
from rlvo.training.member import predict_logits, read_ahead
from rlvo.training.records import EpochMetrics

Schedule = OneCycleLR | ReduceLROnPlateau
"""One-cycle is stepped after every batch, plateau after every epoch with the validation loss."""


class NonFiniteLossError(Exception):
    """The loss became NaN or infinite: the trial has failed."""


def build_optimizer(module: nn.Module, settings: TrainingConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over all parameters of the module."""
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, settings: TrainingConfig, patients: int) -> Schedule:
    """One cycle up to `learning_rate` and down over all epochs (Smith & Topin 2019), or a drop at each plateau."""
    if settings.schedule == "one_cycle":
        steps = settings.epochs * len(batches(torch.arange(patients), settings.batch_size))
        return OneCycleLR(optimizer, settings.learning_rate, total_steps=steps)
    return ReduceLROnPlateau(optimizer, factor=settings.plateau_factor, patience=settings.plateau_patience)


def batches(order: Tensor, size: int) -> list[Tensor]:
    """`order` in batches, without a last batch of one: batch norm would learn from a single patient."""
    whole = list(torch.split(order, size))
    return whole[:-1] if len(whole) > 1 and len(whole[-1]) == 1 < size else whole


def parts(batch: Tensor, at_once: int) -> tuple[Tensor, ...]:
    """A batch in as few parts of at most `at_once` patients as possible, and these as even as possible.

    So there is a part of a single patient, from which batch norm would learn, only if `at_once` is 1, or 2 in a batch
    of an odd number.
    """
    return batch.tensor_split(math.ceil(len(batch) / at_once))


def smallest_part(patients: int, settings: TrainingConfig) -> int:
    """The fewest patients that are computed at once in an epoch of so many."""
    whole, left = divmod(patients, settings.batch_size)
    sizes = [settings.batch_size] * (whole > 0) + [left] * (left > 1 or whole == 0)
    return min(size // math.ceil(size / settings.at_once) for size in sizes)


def positive_weight(labels: np.ndarray, settings: TrainingConfig) -> float:
    """The weight of positives in the loss: the ratio of negatives to positives if configured, else 1."""
    return float((labels == 0).sum() / (labels == 1).sum()) if settings.pos_weight else 1.0


def train_epoch(
    classifier: Classifier,
    volumes: Volumes,
    data: FoldData,
    settings: TrainingConfig,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    weight: float,
) -> float:
    """Train on all training patients once, in random order. Returns the mean loss. Raises NonFiniteLossError.

    A batch is computed in parts of at most `settings.at_once` patients, whose gradients add up to that of the batch's
    mean loss; random numbers are drawn for whole batches.
    """
    device = classifier.channel_mean.device
    tabular = torch.as_tensor(data.training.tabular, dtype=torch.float32)
    labels = torch.as_tensor(data.training.labels, dtype=torch.float32)
    order = batches(torch.randperm(len(volumes)), settings.batch_size)
    steps = [parts(batch, settings.at_once) for batch in order]
    sides = side_columns(data.encoder.feature_names)
    images = sum(name != "vessels" for name in volumes.channels)
    in_bf16 = settings.mixed_precision and device.type == "cuda" and torch.cuda.is_bf16_supported()
    losses: list[Tensor] = []
    classifier.train()
    with closing(read_ahead(volumes, [part for step in steps for part in step], device)) as reader:
        for batch, step in zip(order, steps, strict=True):
            changes = Changes.draw(settings.augmentation, len(batch), images).split([len(part) for part in step])
            optimizer.zero_grad()
            loss = torch.zeros((), device=device)
            for volume, part, change in zip(islice(reader, len(step)), step, changes, strict=True):
                volume, table = flip_and_shift(volume, tabular[part], change, sides)
                table, label = (values.to(device, non_blocking=True) for values in (table, labels[part]))
                if change.intensities is not None:
                    volume = jitter(volume.float(), classifier.channel_mean, classifier.channel_std, change.intensities)
                with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16):
                    logits = classifier(volume, table)
                share = _loss(logits.float(), label, weight) * (len(part) / len(batch))
                share.backward()  # type: ignore[no-untyped-call]
                loss += share.detach()
            losses.append(loss)
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(classifier.parameters(), settings.clip_norm)
            optimizer.step()
            if isinstance(schedule, OneCycleLR):
                schedule.step()
    values = torch.stack(losses).tolist()  # not after each step, for which the device would have to wait
    if not all(map(math.isfinite, values)):
        raise NonFiniteLossError(
            f"the training loss became {next(value for value in values if not math.isfinite(value))}"
        )
    return float(np.average(values, weights=[len(batch) for batch in order]))


def validate(classifier: Classifier, volumes: Volumes, patients: Patients, batch: int, weight: float) -> EpochMetrics:
    """Loss and metrics of the validation patients in fp32, without undefined ones. Raises NonFiniteLossError."""
    logits = predict_logits(classifier, volumes, patients.tabular, batch)
    loss = _loss(logits, torch.as_tensor(patients.labels, dtype=torch.float32), weight).item()
    if not math.isfinite(loss):
        raise NonFiniteLossError(f"the validation loss became {loss}")
    probability = expit(logits.double().numpy())
    metrics = classification_metrics(patients.labels, probability, youden_threshold(patients.labels, probability))
    return {
        "val/loss": loss,
        **{f"val/{name}": float(value) for name, value in metrics.items() if math.isfinite(value)},
    }


def _loss(logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    return binary_cross_entropy_with_logits(logits, labels, pos_weight=logits.new_full((), weight))
