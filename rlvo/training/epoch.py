"""One epoch: a pass over the training patients in batches, then the metrics of the validation patients."""

import copy
import math
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from rlvo.config.training import TrainingConfig
from rlvo.evaluation.metrics import classification_metrics
from rlvo.evaluation.thresholds import youden_threshold
from rlvo.models.auxiliary import AuxiliaryHeads
from rlvo.models.classifier import Classifier
from rlvo.training.augmentation import Changes, flip_and_shift, jitter, side_columns
from rlvo.training.average import WeightAverage
from rlvo.training.dataset import FoldData, Patients, Volumes
from rlvo.training.execution import Execution
from rlvo.training.member import predict_logits, read_ahead
from rlvo.training.missing import Lost, NoPerfusion, blank_volumes
from rlvo.training.records import EpochMetrics

Schedule = OneCycleLR | ReduceLROnPlateau
"""One-cycle is stepped after every batch, plateau after every epoch with the validation loss."""


class NonFiniteLossError(Exception):
    """The loss became NaN or infinite: the trial has failed."""


def build_optimizer(
    module: nn.Module, settings: TrainingConfig, backbone: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Adam or AdamW over all parameters of the module; its `backbone` has a rate of its own (`backbone_lr_mult`)."""
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    groups: list[dict[str, Any]] = [{"params": [*module.parameters()]}]
    if backbone is not None and settings.backbone_lr_mult != 1:
        slower = dict.fromkeys(backbone.parameters())
        others = [each for each in module.parameters() if each not in slower]
        slow = settings.learning_rate * settings.backbone_lr_mult
        groups = [{"params": others}, {"params": [*slower], "lr": slow}]
    return kind(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, settings: TrainingConfig, patients: int) -> Schedule:
    """One cycle up to `learning_rate` and down over all epochs (Smith & Topin 2019), or a drop at each plateau."""
    if settings.schedule == "one_cycle":
        steps = settings.epochs * len(batches(torch.arange(patients), settings.batch_size))
        return OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=steps)
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


def smooth(labels: Tensor, settings: TrainingConfig) -> Tensor:
    """What the training loss asks for: labels drawn towards ½ by `label_smoothing` (Szegedy et al. 2016)."""
    return labels * (1 - settings.label_smoothing) + settings.label_smoothing / 2


def train_epoch(
    classifier: Classifier,
    volumes: Volumes,
    data: FoldData,
    settings: TrainingConfig,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    weight: float,
    average: WeightAverage | None = None,
    heads: AuxiliaryHeads | None = None,
    *,
    frozen: bool = False,
) -> EpochMetrics:
    """Train on all training patients once, in random order. Raises NonFiniteLossError.

    A batch is computed in parts of at most `settings.at_once` patients, whose gradients add up to that of the batch's
    mean loss; random numbers are drawn for whole batches. `heads` learn beside the classifier, with weight
    `settings.auxiliary`; the optimizer has their parameters too. A `frozen` backbone stays as it is.

    Returns:
        `train/loss`: the classifier's mean loss, with the table's log-odds if it learns beside them;
        `train/auxiliary/<target>`: that of each head, of measured values.
    """
    device = classifier.channel_mean.device
    tabular = torch.as_tensor(data.training.tabular, dtype=torch.float32)
    labels = torch.as_tensor(data.training.labels, dtype=torch.float32)
    offset = None if data.training.offset is None else torch.as_tensor(data.training.offset, dtype=torch.float32)
    targets, known = _targets(heads), _known(heads, data.training)
    importance = torch.tensor([1.0, *(settings.auxiliary / len(targets) for _ in targets)], device=device)
    order = batches(torch.randperm(len(volumes)), settings.batch_size)
    steps = [parts(batch, settings.at_once) for batch in order]
    sides, no_perfusion = side_columns(data.encoder.feature_names), NoPerfusion.of(data.encoder)
    images = sum(name != "vessels" for name in volumes.channels)
    cropped = data.grid if classifier.symmetry.crops else None
    in_bf16 = Execution(device, settings).in_bfloat16
    parameters = [*classifier.parameters(), *(heads.parameters() if heads else ())]
    losses: list[Tensor] = []
    classifier.train()
    classifier.backbone.train(not frozen).requires_grad_(not frozen)
    with closing(read_ahead(volumes, [part for step in steps for part in step], device)) as reader:
        for batch, step in zip(order, steps, strict=True):
            sizes = [len(part) for part in step]
            changes = Changes.draw(settings.augmentation, len(batch), images, cropped).split(sizes)
            losses_of_parts = Lost.draw(settings, volumes.channels, len(batch)).split(sizes)
            counts = torch.split(torch.nan_to_num(known[batch] / known[batch].sum(dim=0)), sizes)
            optimizer.zero_grad()
            loss = torch.zeros_like(importance)
            for volume, part, change, lost, count in zip(
                islice(reader, len(step)), step, changes, losses_of_parts, counts, strict=True
            ):
                volume, whole = flip_and_shift(volume, tabular[part], change, sides)
                table = whole if lost.perfusion is None else no_perfusion.blank(whole, lost.perfusion)
                table, whole, label, count = (
                    values.to(device, non_blocking=True) for values in (table, whole, labels[part], count)
                )
                if change.intensities is not None:
                    volume = jitter(volume.float(), classifier.channel_mean, classifier.channel_std, change.intensities)
                if lost.volumes is not None:
                    volume = blank_volumes(volume, classifier.channel_mean, lost.volumes)
                given = [volume, table, *([] if change.moves is None else [change.moves.to(device)])]
                with torch.autocast(device.type, torch.bfloat16, enabled=in_bf16):
                    answers = heads.answer(classifier, *given) if heads else classifier(*given)[:, None]
                logits = answers[:, 0].float()
                if offset is not None:
                    # The outcome is that of the patient as they are, flipped or not, and so are the clinical log-odds.
                    own = logits if classifier.offset is None else logits - classifier.offset(table)
                    logits = own + offset[part].to(device, non_blocking=True)
                share = (_loss(logits, smooth(label, settings), weight) * (len(part) / len(batch)))[None]
                if heads:
                    share = torch.cat([share, heads.loss(answers[:, 1:], whole, count)])
                (share * importance).sum().backward()  # type: ignore[no-untyped-call]
                loss += share.detach()
            losses.append(loss)
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
            optimizer.step()
            if average is not None:
                average.update(classifier)
            if isinstance(schedule, OneCycleLR):
                schedule.step()
    values = np.array(torch.stack(losses).tolist())  # not after each step, for which the device would have to wait
    if len(wrong := values[~np.isfinite(values)]):
        raise NonFiniteLossError(f"the training loss became {wrong[0]}")
    patients = np.array([[len(batch), *known[batch].sum(dim=0).tolist()] for batch in order])
    return {
        f"train/{name}": float(np.average(own, weights=many))
        for name, own, many in zip(("loss", *targets), values.T, patients.T, strict=True)
        if many.any()
    }


def validate(
    classifier: Classifier,
    volumes: Volumes,
    patients: Patients,
    batch: int,
    weight: float,
    heads: AuxiliaryHeads | None = None,
) -> tuple[EpochMetrics, np.ndarray]:
    """Loss and metrics of the validation patients in fp32, without undefined ones, and their probabilities [N].

    Raises NonFiniteLossError.

    The loss is the classifier's; `val/auxiliary/<target>` are those of `heads`.
    """
    ask = partial(heads.answer, classifier) if heads else None
    answers = predict_logits(classifier, volumes, patients.tabular, batch, ask=ask).view(len(patients), -1)
    logits = answers[:, 0]
    loss = _loss(logits, torch.as_tensor(patients.labels, dtype=torch.float32), weight).item()
    if not math.isfinite(loss):
        raise NonFiniteLossError(f"the validation loss became {loss}")
    probability = expit(logits.double().numpy())
    metrics = classification_metrics(patients.labels, probability, youden_threshold(patients.labels, probability))
    if heads:
        known, table = _known(heads, patients), torch.as_tensor(patients.tabular, dtype=torch.float32)
        sums = copy.deepcopy(heads).cpu().loss(answers[:, 1:], table, known / known.sum(dim=0))
        metrics |= dict(zip(_targets(heads), sums.tolist(), strict=True))
    defined = {f"val/{name}": float(value) for name, value in metrics.items() if math.isfinite(value)}
    return {"val/loss": loss, **defined}, probability


def _targets(heads: AuxiliaryHeads | None) -> list[str]:
    return [f"auxiliary/{name}" for name in heads.targets] if heads else []


def _known(heads: AuxiliaryHeads | None, patients: Patients) -> Tensor:
    """Which targets of the heads the patients have values of, 0 or 1 [N, P]."""
    if heads is None:
        return torch.zeros(len(patients), 0)
    measured = np.ones_like(patients.tabular) if patients.measured is None else patients.measured
    return heads.known(torch.as_tensor(measured))


def _loss(logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    return binary_cross_entropy_with_logits(logits, labels, pos_weight=logits.new_full((), weight))
