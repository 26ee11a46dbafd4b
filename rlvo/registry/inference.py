"""From a table row and raw volumes to an answer. The command, the registered model and the evaluation all run this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from rlvo.cohort.reading import examine_table
from rlvo.cohort.variables import source_columns
from rlvo.ensemble.member import MemberSpec
from rlvo.ensemble.selection import MODALITIES
from rlvo.ensemble.spec import EnsembleSpec, apply
from rlvo.errors import CohortError, MachineError, RlvoError
from rlvo.imaging.laterality import side_doubts
from rlvo.imaging.prepare import Prepared, prepare
from rlvo.imaging.store import VolumeStore
from rlvo.models.classifier import Classifier
from rlvo.registry.folder import ModelDescription, member_weights, read_description
from rlvo.training.dataset import stack_channels
from rlvo.training.member import load_classifier, predict_probabilities

VOLUMES = ("ncct", "cta", "vessels")
REQUIRED_VOLUMES = ("ncct", "cta")
NOT_ANSWERED = "not answered: "
"""How the last warning of a patient begins who could not be answered for."""
ANSWER_COLUMNS = (
    "patient_id", "rlvo", "score", "votes", "folds", "p_ncct", "p_cta", "p_both", "warnings", "notice",
)  # fmt: skip

Progress = Callable[[int, int], None]
"""Called with (patients done, patients in all)."""


@dataclass(frozen=True)
class MemberAnswers:
    """What each member says of each of N patients, in the table's order."""

    patients: tuple[str, ...]
    probabilities: Mapping[str, np.ndarray]
    """By member key, [N]; NaN where a patient could not be answered for."""
    warnings: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Members:
    """Trained members of one study, ready to predict."""

    description: ModelDescription
    classifiers: Mapping[str, tuple[MemberSpec, Classifier]]

    @classmethod
    def load(
        cls, description: ModelDescription, members: Iterable[MemberSpec], weights: Callable[[MemberSpec], Path]
    ) -> Members:
        """Load `members`, each once; `weights` gives a member's safetensors file or trial folder."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        classifiers: dict[str, tuple[MemberSpec, Classifier]] = {}
        for member in {member.key: member for member in members}.values():
            features = len(description.encoders[member.fold].feature_names)
            classifier = load_classifier(weights(member), member.configuration.model, features)
            classifiers[member.key] = member, classifier.to(device)
        return cls(description, classifiers)

    def answer(
        self,
        table: pd.DataFrame,
        folder: Path,
        *,
        decimal_comma: bool = False,
        store: VolumeStore | None = None,
        progress: Progress | None = None,
    ) -> MemberAnswers:
        """Probabilities of every member for every row of a cohort table.

        A cell that is missing or not allowed is imputed as in training and named in the warnings. A patient without a
        readable NCCT and CTA gets no probability and a warning that says why; the others are answered.

        Args:
            table: `patient_id`, volumes and predictors; outcomes and other columns are not looked at.
            folder: what relative volume paths are relative to.
            decimal_comma: "70,5" is a number.
            store: where volumes that were prepared before are taken from.

        Raises:
            RlvoError: no `patient_id`, or ids that are missing or occur twice.
            MachineError: not this patient's fault.
        """
        known = ["patient_id", *VOLUMES, *source_columns(self.description.predictors)]
        typed, findings = examine_table(
            table[[c for c in known if c in table]], folder=folder, decimal_comma=decimal_comma
        )
        if unusable := [finding for finding in findings if finding.patient is None or finding.field == "patient_id"]:
            raise CohortError(unusable)
        warnings: dict[str, list[str]] = {str(patient): [] for patient in typed.index}
        for finding in findings:
            warnings[str(finding.patient)].append(f"{finding.field}: {finding.what}")
        encoder = next(iter(self.description.encoders.values()))
        for patient, imputed in zip(warnings, encoder.imputed(typed), strict=True):
            warnings[patient] += [f"imputed: {', '.join(imputed)}"] if imputed else []

        tabular = {fold: encoder.transform(typed) for fold, encoder in self.description.encoders.items()}
        probabilities = {key: np.full(len(typed), np.nan) for key in self.classifiers}
        for row, patient in enumerate(warnings):
            try:
                prepared = self._prepared({name: _path(typed, row, name, folder) for name in VOLUMES}, patient, store)
                warnings[patient] += prepared.warnings
                warnings[patient] += side_doubts(prepared.figures, _text(typed, row, "occlusion_side"))
                own = {fold: features[row : row + 1] for fold, features in tabular.items()}
                for key, probability in self._of_patient(prepared.volumes, own).items():
                    probabilities[key][row] = probability
            except MachineError:
                raise
            except RlvoError as error:
                warnings[patient].append(f"{NOT_ANSWERED}{error}")
            if progress is not None:
                progress(row + 1, len(typed))
        return MemberAnswers(tuple(warnings), probabilities, tuple(map(tuple, warnings.values())))

    def _prepared(self, files: Mapping[str, Path | None], patient: str, store: VolumeStore | None) -> Prepared:
        if absent := [name.upper() for name in REQUIRED_VOLUMES if files[name] is None]:
            raise RlvoError(f"no {' and no '.join(absent)}")
        if store is not None and store.has(address := store.address(self.description.target, files)):
            return store.read(address)
        return prepare(self.description.target, files["ncct"], files["cta"], files["vessels"], patient=patient)

    def _of_patient(self, volumes: Mapping[str, np.ndarray], tabular: Mapping[int, np.ndarray]) -> dict[str, float]:
        """Every member's probability, from one patient's volumes and each fold's encoding [1, T]."""
        result: dict[str, float] = {}
        for key, (member, classifier) in self.classifiers.items():
            stacked = torch.from_numpy(stack_channels(volumes, member.configuration.model.channels)).float()
            result[key] = float(predict_probabilities(classifier, stacked[None], tabular[member.fold])[0])
            if not np.isfinite(result[key]):
                raise RlvoError("gives no finite probability", where=f"member {key}")
        return result


@dataclass(frozen=True)
class EnsemblePredictor:
    """A frozen ensemble and its members."""

    members: Members

    @classmethod
    def load(cls, folder: Path) -> EnsemblePredictor:
        """Load a model folder. Raises RlvoError where it is damaged or belongs to another preparation."""
        description = read_description(folder)
        return cls(Members.load(description, description.spec.members, lambda member: member_weights(folder, member)))

    def predict(
        self,
        table: pd.DataFrame,
        folder: Path,
        *,
        decimal_comma: bool = False,
        store: VolumeStore | None = None,
        members: bool = False,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """The answers to a cohort table, a row a patient; see `Members.answer` and `answer_table`.

        Args:
            members: add a column `p_<member key>` for every member.
        """
        answers = self.members.answer(table, folder, decimal_comma=decimal_comma, store=store, progress=progress)
        description = self.members.description
        answered = answer_table(description.spec, answers, description.notice)
        if members:
            answered = answered.assign(**{f"p_{key}": values for key, values in answers.probabilities.items()})
        return answered


def answer_table(spec: EnsembleSpec, answers: MemberAnswers, notice: str) -> pd.DataFrame:
    """The columns of ANSWER_COLUMNS, a row a patient: `rlvo` 0/1, `score` a margin, warnings joined by "; ".

    `rlvo`, `score` and `votes` are missing where a patient could not be answered for; a `p_…` also where the ensemble
    has no member of that modality.
    """
    answer = apply(spec, answers.probabilities)
    rlvo, votes = pd.array(answer.rlvo, dtype="Int64"), pd.array(answer.votes, dtype="Int64")
    rlvo[~np.isfinite(answer.score)] = votes[~np.isfinite(answer.score)] = pd.NA
    warnings = [list(of_patient) for of_patient in answers.warnings]
    for row in np.flatnonzero(answer.undecided):
        warnings[row].append(f"{answer.undecided[row]} of {answer.folds} folds have no evidence either way")
    nothing = np.full(len(rlvo), np.nan)
    return pd.DataFrame(
        {
            "patient_id": pd.array(answers.patients, dtype="str"),
            "rlvo": rlvo,
            "score": answer.score,
            "votes": votes,
            "folds": answer.folds,
            **{f"p_{modality.lower()}": answer.probability.get(modality, nothing) for modality in MODALITIES},
            "warnings": ["; ".join(of_patient) for of_patient in warnings],
            "notice": notice,
        },
        columns=list(ANSWER_COLUMNS),
    )


def _path(typed: pd.DataFrame, row: int, name: str, folder: Path) -> Path | None:
    written = _text(typed, row, name)
    return None if written is None else folder / written


def _text(typed: pd.DataFrame, row: int, name: str) -> str | None:
    written = typed[name].iloc[row] if name in typed else None
    return None if written is None or pd.isna(written) else str(written)
