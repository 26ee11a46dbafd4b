"""The groups of patients that runs were trained and measured on, as MLflow's datasets: counts and hashes, no ids."""

import json
from dataclasses import dataclass
from typing import Literal

from mlflow.entities import Dataset, DatasetInput, InputTag

from rlvo.cohort.splits import Split, read_split
from rlvo.config.base import content_hash
from rlvo.study.folder import StudyFolder, read_hashes

DIGEST_LENGTH = 8
"""As that of MLflow's own digests: it is shown beside the name."""
Role = Literal["training", "validation", "test"]


@dataclass(frozen=True)
class PatientGroup:
    """Patients of a cohort, in one role. Runs on the same patients in the same role have the same digest.

    Attributes:
        name: says how figures on them came about, e.g. `development, nested`.
        hashes: of the data and of the split.
        patients: how many.
    """

    name: str
    role: Role
    hashes: tuple[str, str]
    patients: int

    @property
    def digest(self) -> str:
        return content_hash([self.name, *self.hashes])[:DIGEST_LENGTH]

    def as_input(self) -> DatasetInput:
        """For `MlflowClient.log_inputs`."""
        profile = json.dumps({"patients": self.patients})
        source = json.dumps(dict(zip(("data_hash", "split_hash"), self.hashes, strict=True)))
        dataset = Dataset(self.name, self.digest, "rlvo", source, profile=profile)
        return DatasetInput(dataset, [InputTag("mlflow.data.context", self.role)])


@dataclass(frozen=True)
class StudyGroups:
    """The groups of a study's patients."""

    split: Split
    hashes: tuple[str, str]

    @classmethod
    def of(cls, study: StudyFolder) -> "StudyGroups":
        """Those of a study that was started. Raises RlvoError if its files are damaged."""
        hashes = read_hashes(study)
        return cls(read_split(study.split), (hashes["data_hash"], hashes["split_hash"]))

    def training(self, fold: int) -> PatientGroup:
        """On which the trials of a fold are trained."""
        return self._group(f"fold {fold}, training", "training", len(self.split.training(fold)))

    def validation(self, fold: int) -> PatientGroup:
        """On which they are validated, and their checkpoints chosen."""
        return self._group(f"fold {fold}, validation (optimistic)", "validation", len(self.split.validation(fold)))

    @property
    def optimistic(self) -> PatientGroup:
        """Each fold's validation patients, on whom weights and thresholds were fitted, too."""
        return self._group("development, optimistic", "validation", len(self.split.validated))

    @property
    def nested(self) -> PatientGroup:
        """The same patients, with everything chosen on and fitted to the other folds."""
        return self._group("development, nested", "validation", len(self.split.validated))

    @property
    def holdout(self) -> PatientGroup:
        """Those whom nothing was chosen on or fitted to."""
        return self._group("hold-out", "test", len(self.split.test))

    def _group(self, name: str, role: Role, patients: int) -> PatientGroup:
        return PatientGroup(name, role, self.hashes, patients)
