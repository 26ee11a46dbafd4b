"""Clinical baselines: a logistic regression a fold, on the networks' folds, thresholds and metrics (section 2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rlvo.cohort.encoding import TabularEncoder, fit_encoder
from rlvo.cohort.splits import Split
from rlvo.evaluation.baselines import LogisticBaseline, fit_logistic
from rlvo.evaluation.metrics import classification_metrics
from rlvo.evaluation.thresholds import youden_threshold


@dataclass(frozen=True)
class BaselineFold:
    """One fold's encoder and regression, fitted on its training patients; threshold from its validation patients."""

    encoder: TabularEncoder
    logistic: LogisticBaseline
    threshold: float

    def probability(self, table: pd.DataFrame) -> np.ndarray:
        """Probability of rLVO for each patient, [N]."""
        return self.logistic.predict(_design(self.encoder, table))


@dataclass(frozen=True)
class BaselineResult:
    """The baseline of every fold, and the validation predictions (columns of `evaluation.predictions`)."""

    predictors: tuple[str, ...]
    folds: tuple[BaselineFold, ...]
    validation: pd.DataFrame

    def validation_metrics(self) -> pd.DataFrame:
        """`classification_metrics` of each fold's validation patients, a row a fold.

        The thresholds were chosen on the same patients: all but the AUC are optimistic.
        """
        rows = []
        for k, fold in enumerate(self.folds):
            part = self.validation[self.validation["fold"] == k]
            rows.append(classification_metrics(part["label"], part["probability"], fold.threshold))
        return pd.DataFrame(rows)

    def score(self, table: pd.DataFrame) -> pd.DataFrame:
        """The folds' answer for patients none of them saw, indexed as `table`.

        `probability`: mean over folds; `score`: mean of probability − threshold; `votes`: folds that say rLVO;
        `rlvo`: 1 by strict majority.
        """
        probability = np.array([fold.probability(table) for fold in self.folds])
        margin = probability - np.array([[fold.threshold] for fold in self.folds])
        votes = (margin >= 0).sum(axis=0)
        return pd.DataFrame(
            {
                "probability": probability.mean(axis=0),
                "score": margin.mean(axis=0),
                "votes": votes,
                "rlvo": (2 * votes > len(self.folds)).astype(int),
            },
            index=table.index,
        )


def clinical_baseline(table: pd.DataFrame, label: pd.Series, split: Split, predictors: Sequence[str]) -> BaselineResult:
    """Fit a logistic regression on each fold's training patients.

    Args:
        table: a checked cohort table, indexed by patient id.
        label: 0 or 1 a patient, indexed likewise.
        predictors: may hold `aspects`.

    Raises:
        RlvoError: a predictor that cannot be one or has no value in a training fold.
    """
    folds, predictions = [], []
    for k in range(len(split.folds)):
        training, validation = list(split.training(k)), list(split.validation(k))
        encoder = fit_encoder(table.loc[training], predictors)
        logistic = fit_logistic(_design(encoder, table.loc[training]), label[training])
        probability = logistic.predict(_design(encoder, table.loc[validation]))
        folds.append(BaselineFold(encoder, logistic, youden_threshold(label[validation], probability)))
        predictions.append(
            pd.DataFrame(
                {
                    "patient": validation,
                    "member": f"clinical-f{k}",
                    "fold": k,
                    "split": "validation",
                    "probability": probability,
                    "label": label[validation].to_numpy(),
                }
            )
        )
    return BaselineResult(tuple(predictors), tuple(folds), pd.concat(predictions, ignore_index=True))


def _design(encoder: TabularEncoder, table: pd.DataFrame) -> np.ndarray:
    """Encoded predictors without the reference levels, which the intercept stands for."""
    kept = [i for i, name in enumerate(encoder.feature_names) if name not in encoder.reference_features]
    return encoder.transform(table)[:, kept]
