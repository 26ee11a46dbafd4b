"""Whether a network has left chance: whether it tells apart at least the patients it was trained on.

A network that does not has failed to learn (dead units, an unlucky start, batch norm's statistics far from what they
stand for), which the validation AUC of a single fold can hide. One that does may still know nothing of other patients.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from rlvo.models.classifier import Classifier
from rlvo.training.dataset import Patients, Volumes
from rlvo.training.member import predict_logits
from rlvo.training.records import Start

ONE_IN_TWENTY, ONE_IN_HUNDRED = 1.6449, 2.3263
"""Standard deviations that the normal distribution exceeds so often."""
FEW = 64
"""So many patients are asked first: a network that has learned tells them apart, and large cohorts take their time."""


def chance_limit(labels: np.ndarray, deviations: float = ONE_IN_TWENTY) -> float:
    """The AUC that scores without any relation to the labels exceed one time in twenty; at most 1.

    0.5 + 1.645 standard deviations of the Mann–Whitney statistic, √((n₀ + n₁ + 1)/(12 n₀ n₁)). NaN if a class is
    missing.
    """
    positive, negative = int((labels == 1).sum()), int((labels == 0).sum())
    if not positive or not negative:
        return math.nan
    return min(0.5 + deviations * math.sqrt((positive + negative + 1) / (12 * positive * negative)), 1.0)


def look_back(last: Classifier, kept: Classifier, volumes: Volumes, patients: Patients, batch: int) -> Start | None:
    """How a training went, by its training patients; None if they are all of one class.

    Args:
        last: the network after the last epoch.
        kept: the network that is kept; asked only if the last one is at chance.
        volumes, patients: those it was trained on. Some are asked first, and the others only if these leave a doubt.
        batch: patients per batch.
    """
    limit = chance_limit(labels := patients.labels)
    if math.isnan(limit):
        return None
    step = math.ceil(len(labels) / FEW)
    first, logits = np.arange(len(labels)) % step == 0, np.zeros(len(labels))
    logits[first] = _logits(last, volumes, patients, batch, first)
    if step > 1:
        first_limit = chance_limit(labels[first], ONE_IN_HUNDRED)
        if (auc := _auc(labels[first], logits[first])) > first_limit:
            return Start(training_auc=auc, chance_limit=first_limit)
        logits[~first] = _logits(last, volumes, patients, batch, ~first)
    auc = _auc(labels, logits)
    if auc <= limit:
        auc = max(auc, _auc(labels, _logits(kept, volumes, patients, batch, np.full(len(labels), True))))
    return Start(training_auc=auc, chance_limit=limit)


def _logits(classifier: Classifier, volumes: Volumes, patients: Patients, batch: int, asked: np.ndarray) -> np.ndarray:
    """Of some patients a network was trained on, asked as in validation; 0 instead of what is not finite."""
    rows = _Rows(volumes, torch.as_tensor(asked.nonzero()[0]))
    logits = predict_logits(classifier, rows, patients.tabular[asked], batch)
    return torch.nan_to_num(logits, 0.0, 0.0, 0.0).numpy()


def _auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """NaN if the patients are of one class."""
    return float(roc_auc_score(labels, scores)) if len(np.unique(labels)) > 1 else math.nan


@dataclass(frozen=True)
class _Rows:
    """The volumes of some patients."""

    volumes: Volumes
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice | Tensor) -> Tensor:
        return self.volumes[self.rows[part]]
