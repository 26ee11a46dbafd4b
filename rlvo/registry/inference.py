"""From a table row and raw volumes to an answer. The command, the registered model and the evaluation all run this."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from rlvo.cohort.variables import CTP
from rlvo.ensemble.member import MemberSpec
from rlvo.ensemble.selection import MODALITIES
from rlvo.ensemble.spec import EnsembleSpec, apply
from rlvo.errors import RlvoError
from rlvo.imaging.store import VolumeStore
from rlvo.registry.cohort_summary import predictor_values
from rlvo.registry.folder import WEIGHTS, ModelDescription, Variant, read_description
from rlvo.registry.members import Members
from rlvo.registry.patients import NOT_ANSWERED, Patient, Progress, Rows, words_for_missing
from rlvo.training.member import Precision

ANSWER_COLUMNS = (
    "patient_id", "rlvo", "score", "probability", "votes", "folds", "p_ncct", "p_cta", "p_both", "warnings", "notice",
)  # fmt: skip


@dataclass(frozen=True)
class MemberAnswers:
    """What each member says of each of N patients, in the table's order."""

    patients: tuple[str, ...]
    probabilities: Mapping[str, np.ndarray]
    """By member key, [N]; NaN where a patient could not be answered for."""
    warnings: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class EnsemblePredictor:
    """A frozen ensemble, its variants for patients some of whose inputs are missing, and their members."""

    description: ModelDescription
    members: Members

    @classmethod
    def load(cls, folder: Path) -> EnsemblePredictor:
        """Load a model folder; members are read when they are first asked.

        Raises RlvoError where it is damaged or belongs to another preparation.
        """
        description, weights = read_description(folder), folder / WEIGHTS
        if not weights.is_file():
            raise RlvoError("there are no weights", where=weights, fix="Fetch or register the model again")
        return cls(description, Members(lambda name: (weights, name)))

    def predict(
        self,
        table: pd.DataFrame,
        folder: Path,
        *,
        decimal_comma: bool = False,
        store: VolumeStore | None = None,
        members: bool = False,
        precision: Precision = "float32",
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """The answers to a cohort table, a row a patient, in the columns of ANSWER_COLUMNS.

        A patient is answered for by the first variant whose volumes and CT perfusion variables are all there, else by
        the first whose volumes are there; every departure from the ensemble itself stands in the warnings. A cell that
        is not allowed counts as missing; a missing predictor is imputed as in training; one outside what the training
        patients had is taken as the nearest that they had. A volume that is named and cannot be used is no missing
        one: that patient is not answered for.

        Args:
            table: `patient_id`, volumes and predictors; outcomes and other columns are not looked at.
            folder: what relative volume paths are relative to.
            decimal_comma: "70,5" is a number.
            store: where volumes that were prepared before are taken from.
            members: add a column `p_<member>` for every member; missing where it was not asked.
            precision: of the networks.

        Raises:
            RlvoError: no `patient_id`, or ids that are missing or occur twice.
            MachineError: not this patient's fault.
        """
        if precision not in get_args(Precision):
            raise RlvoError(f"'{precision}' is none of {', '.join(get_args(Precision))}", where="precision")
        variants, target = self.description.variants, self.description.target
        predictors = [predictor for variant in variants for predictor in variant.predictors]
        rows = Rows.read(table, folder, predictors, decimal_comma=decimal_comma)
        patients = rows.prepared(target, [v.channels for v in variants], store=store, progress=progress)
        answers = [self._answer(patient, members, precision) for patient in patients]
        return pd.concat(answers, ignore_index=True) if answers else pd.DataFrame(columns=list(ANSWER_COLUMNS))

    def _answer(self, patient: Patient, members: bool, precision: Precision) -> pd.DataFrame:
        variants, warnings = self.description.variants, [*patient.warnings]
        asked: dict[str, float] = {}
        if patient.volumes is None:
            variant = variants[0]
        else:
            variant = _choose(variants, patient.volumes, patient.row)
            warnings = [*_departures(variants[0], variant, patient), *warnings, *_table_warnings(variant, patient.row)]
            asked = self.members.probabilities(
                {self.description.member_name(variant, member): member for member in variant.spec.members},
                patient.volumes,
                {fold: encoder.transform(patient.row) for fold, encoder in variant.encoders.items()},
                precision,
            )
        names = {member.key: self.description.member_name(variant, member) for member in variant.spec.members}
        probabilities = {key: np.array([asked.get(name, np.nan)]) for key, name in names.items()}
        answers = MemberAnswers((patient.id,), probabilities, (tuple(warnings),))
        answered = answer_table(variant.spec, answers, self.description.notice)
        if members:
            answered = answered.assign(**{f"p_{name}": asked.get(name, np.nan) for name in self.description.members()})
        return answered


def ask_members(
    members: Mapping[str, MemberSpec],
    description: ModelDescription,
    weights: Callable[[str], Path],
    table: pd.DataFrame,
    folder: Path,
    *,
    store: VolumeStore | None = None,
    progress: Progress | None = None,
) -> MemberAnswers:
    """Probabilities of any members of a study for every row of a cohort table.

    Nothing stands in for a volume that one of them looks at: a patient without it is not answered for.

    Args:
        members: by key.
        description: of any of the study's ensembles: encoders, grid and preparation are theirs all.
        weights: gives a member's safetensors file, by key.
        table, folder, store: as `EnsemblePredictor.predict` takes them.
    """
    networks = Members(lambda key: (weights(key), None))
    needed = dict.fromkeys(name for member in members.values() for name in member.configuration.model.channels)
    rows = Rows.read(table, folder, description.predictors, decimal_comma=False)
    probabilities = {key: np.full(len(rows.typed), np.nan) for key in members}
    patients, warnings = [], []
    for at, patient in enumerate(rows.prepared(description.target, [tuple(needed)], store=store, progress=progress)):
        own = [*patient.warnings]
        if patient.volumes is not None:
            own += _table_warnings(description.variants[0], patient.row)
            features = {fold: encoder.transform(patient.row) for fold, encoder in description.encoders.items()}
            for key, probability in networks.probabilities(members, patient.volumes, features).items():
                probabilities[key][at] = probability
        patients.append(patient.id)
        warnings.append(tuple(own))
    return MemberAnswers(tuple(patients), probabilities, tuple(warnings))


def answer_table(spec: EnsembleSpec, answers: MemberAnswers, notice: str) -> pd.DataFrame:
    """The columns of ANSWER_COLUMNS, a row a patient: `rlvo` 0/1, `score` a margin, warnings joined by "; ".

    `rlvo`, `score`, `probability` and `votes` are missing where a patient could not be answered for; a `p_…` also
    where the ensemble has no member of that modality; `probability` where the ensemble has no calibrator.
    """
    answer = apply(spec, answers.probabilities)
    rlvo, votes = pd.array(answer.rlvo, dtype="Int64"), pd.array(answer.votes, dtype="Int64")
    rlvo[~np.isfinite(answer.score)] = votes[~np.isfinite(answer.score)] = pd.NA
    warnings = [list(of_patient) for of_patient in answers.warnings]
    for row, of_patient in enumerate(warnings):
        if answer.undecided[row]:
            of_patient.append(f"{answer.undecided[row]} of {answer.folds} folds have no evidence either way")
        if answer.abstained[row] and not any(warning.startswith(NOT_ANSWERED) for warning in of_patient):
            abstained = f"{answer.abstained[row]} of {answer.folds} folds have a member without a finite probability"
            of_patient.append(abstained if np.isfinite(answer.score[row]) else f"{NOT_ANSWERED}{abstained}")
    nothing = np.full(len(rlvo), np.nan)
    return pd.DataFrame(
        {
            "patient_id": pd.array(answers.patients, dtype="str"),
            "rlvo": rlvo,
            "score": answer.score,
            "probability": answer.calibrated,
            "votes": votes,
            "folds": answer.folds,
            **{f"p_{modality.lower()}": answer.probability.get(modality, nothing) for modality in MODALITIES},
            "warnings": ["; ".join(of_patient) for of_patient in warnings],
            "notice": notice,
        },
        columns=list(ANSWER_COLUMNS),
    )


def _choose(variants: Sequence[Variant], volumes: Collection[str], row: pd.DataFrame) -> Variant:
    """The first variant whose volumes and CT perfusion are there; else the first whose volumes are."""
    usable = [variant for variant in variants if set(variant.channels) <= set(volumes)]
    return next((variant for variant in usable if not _missing_perfusion(variant, row)), usable[0])


def _departures(ensemble: Variant, chosen: Variant, patient: Patient) -> list[str]:
    """Why another variant than the ensemble itself answers, in words."""
    if chosen is ensemble:
        return []
    missing = [name for name in ensemble.channels if name not in (patient.volumes or ())]
    perfusion = [name for name in _missing_perfusion(ensemble, patient.row) if name not in chosen.predictors]
    reasons = [words_for_missing(missing)] if missing else []
    reasons += [f"no {', '.join(perfusion)}"] if perfusion else []
    return [f"answered by the ensemble '{chosen.name}': {' and '.join(reasons)}"]


def _missing_perfusion(variant: Variant, row: pd.DataFrame) -> list[str]:
    return [predictor for predictor in variant.imputed(row)[0] if predictor in CTP]


def _table_warnings(variant: Variant, row: pd.DataFrame) -> list[str]:
    """What is imputed, and what lies outside the training patients' range and is clipped to it."""
    imputed = variant.imputed(row)[0]
    warnings = [f"imputed: {', '.join(imputed)}"] if imputed else []
    if not variant.reads_table:
        return warnings
    encoders = tuple(variant.encoders.values())
    for predictor in encoders[0].bounds:
        low = min(encoder.bounds[predictor][0] for encoder in encoders)
        high = max(encoder.bounds[predictor][1] for encoder in encoders)
        value = float(predictor_values(row, predictor).iloc[0])
        if value < low or value > high:
            warnings.append(f"{predictor}: {value:g} counts as the nearest in training, {low:g} to {high:g}")
    return warnings
