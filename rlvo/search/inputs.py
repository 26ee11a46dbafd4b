"""What the trials of a study are trained on, as it is sent to workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from rlvo.cohort.encoding import TabularEncoder, fit_encoder
from rlvo.cohort.selection import Exclusion
from rlvo.cohort.splits import Split
from rlvo.config.model import Configuration
from rlvo.errors import RlvoError
from rlvo.imaging.target import Target
from rlvo.training.dataset import FoldData, Patients
from rlvo.training.records import TrialIdentity


@dataclass(frozen=True, eq=False)
class StudyInputs:
    """What trials are trained on. Holds the table and addresses, no volumes, so it is cheap to send to workers."""

    study: str
    predictors: tuple[str, ...]
    table: pd.DataFrame
    """The included patients' rows, checked."""
    label: pd.Series
    """0 or 1 of each included patient."""
    split: Split
    volumes: Mapping[str, Path]
    """Each included patient's folder in the store."""
    target: Target
    brain_mask: np.ndarray
    """[X, Y, Z] bool."""
    data_hash: str
    """Over labels, predictor values and volumes of the included patients."""
    excluded: tuple[Exclusion, ...] = ()
    doubts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Why a person should look at a patient's volumes, by patient; those without doubt are left out."""
    refused: Mapping[str, RlvoError] = field(default_factory=dict)
    """Why patients were excluded whose volumes cannot be used."""

    def encoder(self, fold: int) -> TabularEncoder:
        """Fitted on the fold's training patients and nothing else."""
        return fit_encoder(self.table.loc[list(self.split.training(fold))], self.predictors)

    def patients(self, ids: tuple[str, ...], encoder: TabularEncoder) -> Patients:
        """These patients as training and prediction take them."""
        return Patients(
            ids=ids,
            volumes=tuple(self.volumes[patient] for patient in ids),
            tabular=encoder.transform(self.table.loc[list(ids)]),
            labels=self.label.loc[list(ids)].to_numpy(copy=True),
        )

    def fold_data(self, fold: int) -> FoldData:
        """Training and validation patients of a fold."""
        encoder = self.encoder(fold)
        training, validation = self.split.training(fold), self.split.validation(fold)
        return FoldData(self.patients(training, encoder), self.patients(validation, encoder), self.brain_mask, encoder)

    def identity(self, configuration: Configuration, fold: int) -> TrialIdentity:
        """What the trial of a configuration on a fold is."""
        return TrialIdentity(
            study=self.study,
            configuration=configuration.key,
            fold=fold,
            split_hash=self.split.hash,
            data_hash=self.data_hash,
        )
