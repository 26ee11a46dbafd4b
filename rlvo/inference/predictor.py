"""From table rows and raw volumes to answers. The registered model and the evaluation on the hold-out both run this."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from rlvo.cohort.labels import format_numbers, names_in_words, variable_name, with_unit
from rlvo.cohort.variables import CTP, TMAX_VOLUMES, source_columns
from rlvo.config.model import Modality
from rlvo.ensemble.spec import TABLE, EnsembleSpec, MemberSpec, apply_ensemble, baseline_key
from rlvo.errors import RlvoError
from rlvo.imaging.store import VolumeStore
from rlvo.inference.description import WEIGHTS, ModelDescription, Variant, read_description
from rlvo.inference.members import Members
from rlvo.inference.patients import NOT_ANSWERED, CheckedTable, Patient, format_missing
from rlvo.inference.training_cohort import SYNTHETIC, predictor_values
from rlvo.progress import Advance
from rlvo.training.member import Precision

ANSWER_COLUMNS = (
    "patient_id", "rlvo", "score", "probability", "votes", "folds", "p_ncct", "p_cta", "p_both", "warnings", "notice",
)  # fmt: skip


@dataclass(frozen=True)
class EnsemblePredictor:
    """A frozen ensemble, its variants for patients with missing inputs, and the members of all of them."""

    description: ModelDescription
    members: Members

    @classmethod
    def load(cls, folder: Path) -> "EnsemblePredictor":
        """Load a model folder; weights are read when a member is first asked.

        Raises:
            RlvoError: if the folder is damaged or belongs to another preparation.
        """
        description, weights = read_description(folder), folder / WEIGHTS
        if not weights.is_file():
            raise RlvoError("the weights are missing", where=weights, fix="Fetch or register the model again")
        return cls(description, Members(lambda name: (weights, name)))

    def predict(
        self,
        table: pd.DataFrame,
        folder: Path,
        *,
        store: VolumeStore | None = None,
        members: bool = False,
        precision: Precision = "float32",
        progress: Advance | None = None,
    ) -> pd.DataFrame:
        """Answer a cohort table: one row per patient, with the columns ANSWER_COLUMNS.

        A patient is scored by the first variant whose volumes and CT perfusion variables are all present, or else by
        the first whose volumes are; if that isn't the ensemble itself, the warnings say so. A cell that is not allowed
        counts as missing, and a missing predictor is imputed as in training. A value outside the training patients'
        range is clipped to it. A volume that is named but unusable doesn't count as missing: that patient isn't scored.

        Args:
            table: `patient_id`, volumes and predictors; outcomes and other columns are ignored.
            folder: what relative volume paths are relative to.
            store: where volumes that have already been prepared are read from.
            members: add a column `p_<member>` for every member; missing if the member was not asked.
            precision: of the networks.
            progress: called with (patients answered, patients in all) before the first and after each.

        Raises:
            RlvoError: if `patient_id` is missing, ids are missing or occur twice, or the precision is unknown.
            MachineError: if the machine is at fault, not a patient.
        """
        if precision not in get_args(Precision):
            raise RlvoError(f"'{precision}' is not one of {', '.join(get_args(Precision))}", where="precision")
        patients = self.patients(table, folder, store, progress)
        answers = [self._answer(patient, members, precision) for patient in patients]
        return pd.concat(answers, ignore_index=True) if answers else pd.DataFrame(columns=list(ANSWER_COLUMNS))

    def patients(
        self, table: pd.DataFrame, folder: Path, store: VolumeStore | None = None, progress: Advance | None = None
    ) -> Iterator[Patient]:
        """A table's patients, ready for members to be asked; arguments and errors as for `predict`."""
        variants = self.description.variants
        predictors = [predictor for variant in variants for predictor in variant.predictors]
        rows = CheckedTable.read(table, folder, predictors, self.description.own)
        if progress is not None:
            progress(0, len(rows.typed))
        sufficient = [variant.channels for variant in variants]
        return rows.prepare(self.description.target, sufficient, store=store, progress=progress)

    def ask(self, patient: Patient, precision: Precision = "float32") -> tuple[Variant, "PatientAnswers"]:
        """The variant that answers for a patient, and what its members say."""
        variant, reason = choose_variant(self.description.variants, patient)
        cohort = self.description.cohort
        origin = [SYNTHETIC] if cohort is not None and cohort.synthetic else []
        patient = replace(patient, warnings=(*origin, *reason, *patient.warnings))
        return variant, ask_members(self.members, self.named_members(variant), variant, patient, precision)

    def named_members(self, variant: Variant) -> dict[str, MemberSpec]:
        """A variant's networks by their names within the model."""
        return {self.description.member_name(variant, member): member for member in variant.spec.networks}

    def _answer(self, patient: Patient, members: bool, precision: Precision) -> pd.DataFrame:
        variant, asked = self.ask(patient, precision)
        answer = shape_answers(variant.spec, [asked], self.description.notice)
        if members:
            name_of, said = self.description.member_name, asked.probabilities
            own = {name_of(variant, member): said.get(member.key, np.nan) for member in variant.spec.members}
            answer = answer.assign(**{f"p_{name}": own.get(name, np.nan) for name in self.description.member_names()})
        return answer


@dataclass(frozen=True)
class PatientAnswers:
    """What members say about one patient."""

    patient: str
    probabilities: Mapping[str, float]
    """By member key; empty if the patient cannot be scored."""
    warnings: tuple[str, ...]


def ask_members(
    networks: Members,
    members: Mapping[str, MemberSpec],
    variant: Variant,
    patient: Patient,
    precision: Precision = "float32",
) -> PatientAnswers:
    """Ask networks, and the variant's linear models if it has them, about one patient.

    A linear model of volumes that the patient lacks says nothing.

    Args:
        members: the networks to ask, by their names in `networks`.
        variant: encodes the patient's row, and is known to say what it imputes and clips.
    """
    if patient.volumes is None:
        return PatientAnswers(patient.id, {}, patient.warnings)
    features = {fold: encoder.transform(patient.row) for fold, encoder in variant.encoders.items()}
    asked = networks.probabilities(members, patient.volumes, features, precision)
    probabilities = {members[name].key: probability for name, probability in asked.items()}
    for fold, model in variant.table_models.items():
        probabilities[baseline_key(TABLE, fold)] = float(model.predict(features[fold])[0])
    if (kind := variant.spec.linear_image) is not None:
        is_right = _side(variant, patient.row) == "right"
        for fold, linear in variant.image_models.items():
            if patient.volumes.keys() >= {*linear.channels}:
                blocks = linear.blocks(patient.volumes, is_right)
                probabilities[baseline_key(kind, fold)] = float(linear.predict(blocks, features[fold])[0])
    return PatientAnswers(patient.id, probabilities, (*patient.warnings, *_table_warnings(variant, patient.row)))


def _side(variant: Variant, row: pd.DataFrame) -> str | None:
    """Of the occlusion; None if it is missing, or none of the variant's predictors."""
    if "occlusion_side" not in variant.predictors:
        return None
    side = predictor_values(row, "occlusion_side").iloc[0]
    return None if pd.isna(side) else str(side)


def shape_answers(spec: EnsembleSpec, asked: Sequence[PatientAnswers], notice: str) -> pd.DataFrame:
    """The ensemble's answers, one row per patient: `rlvo` 0/1, `score` a margin, warnings joined by "; ".

    `rlvo`, `score`, `probability` and `votes` are missing if a patient could not be scored. A column `p_…` is also
    missing if the ensemble has no member of that modality, and `probability` if it has no calibrator.
    """
    nothing = np.full(len(asked), np.nan)
    answer = apply_ensemble(
        spec, {m.key: np.array([each.probabilities.get(m.key, np.nan) for each in asked]) for m in spec.members}
    )
    rlvo, votes = pd.array(answer.rlvo, dtype="Int64"), pd.array(answer.votes, dtype="Int64")
    rlvo[~np.isfinite(answer.score)] = votes[~np.isfinite(answer.score)] = pd.NA
    warnings = [list(each.warnings) for each in asked]
    for row, own in enumerate(warnings):
        if answer.undecided[row]:
            own.append(f"{answer.undecided[row]} of {answer.folds} folds have no evidence either way")
        if answer.abstained[row] and not any(warning.startswith(NOT_ANSWERED) for warning in own):
            abstained = f"{answer.abstained[row]} of {answer.folds} folds have a member without a finite probability"
            own.append(abstained if np.isfinite(answer.score[row]) else f"{NOT_ANSWERED}{abstained}")
    return pd.DataFrame(
        {
            "patient_id": pd.array([each.patient for each in asked], dtype="str"),
            "rlvo": rlvo,
            "score": answer.score,
            "probability": answer.calibrated,
            "votes": votes,
            "folds": answer.folds,
            **{f"p_{name.lower()}": answer.probability.get(name, nothing) for name in get_args(Modality)},
            "warnings": ["; ".join(own) for own in warnings],
            "notice": notice,
        },
        columns=list(ANSWER_COLUMNS),
    )


def choose_variant(variants: Sequence[Variant], patient: Patient) -> tuple[Variant, list[str]]:
    """The first variant whose volumes and CT perfusion variables are present, or else the first whose volumes are.

    Returns:
        The variant, and a warning that says why if it isn't the ensemble itself.
    """
    ensemble, volumes, row = variants[0], patient.volumes, patient.row
    if volumes is None:
        return ensemble, []
    usable = [variant for variant in variants if set(variant.channels) <= set(volumes)]
    chosen = next((variant for variant in usable if not _missing_perfusion(variant, row)), usable[0])
    if chosen is ensemble:
        return ensemble, []
    imputed = _missing_perfusion(chosen, row)
    perfusion = [name for name in _missing_perfusion(ensemble, row) if name not in imputed]
    missing = [name for name in ensemble.channels if name not in volumes]
    reasons = [format_missing(missing)] if missing else []
    reasons += [f"no {names_in_words(perfusion)}"] if perfusion else []
    return chosen, [f"answered by the ensemble '{chosen.name}': {' and '.join(reasons)}"]


def _missing_perfusion(variant: Variant, row: pd.DataFrame) -> list[str]:
    return [predictor for predictor in variant.imputed(row) if predictor in CTP]


def _table_warnings(variant: Variant, row: pd.DataFrame) -> list[str]:
    """Which predictors are imputed, and which are clipped to the training patients' range."""
    imputed = variant.imputed(row)
    warnings = [f"imputed: {names_in_words(imputed)}{_proportion(variant, row)}"] if imputed else []
    unknown = [name for name in imputed if name in variant.looked_up]
    if unknown and any(configuration.model.crop == "occlusion" for configuration in variant.spec.configurations):
        place = "networks look where most training patients' occlusions were"
        warnings.append(f"missing: {names_in_words(unknown)}; {place}")
    if variant.image_models and "occlusion_side" in variant.predictors and _side(variant, row) is None:
        warnings.append("no occlusion side: the linear model of the volumes takes the head as it is")
    if not variant.reads_table:
        return warnings
    encoders = tuple(variant.encoders.values())
    variables = encoders[0].variables
    for predictor in encoders[0].bounds:
        ranges = [(encoder.extremes or encoder.bounds)[predictor] for encoder in encoders]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        value = float(predictor_values(row, predictor).iloc[0])
        if value < low or value > high:
            own, least, most = format_numbers(predictor, value, low, high)
            seen = f"{least} to {with_unit(predictor, most, variables)}"
            is_beyond = f"{with_unit(predictor, own, variables)} counts as the nearest in training, {seen}"
            warnings.append(f"{variable_name(predictor)}: {is_beyond}")
    return warnings


def _proportion(variant: Variant, row: pd.DataFrame) -> str:
    """How missing Tmax volumes were filled in, if it was from the patient's own."""
    tmax = [name for name in TMAX_VOLUMES if name in source_columns(variant.predictors)]
    is_missing = row.reindex(columns=tmax).isna().any(axis=0)
    proportional = any(encoder.parts for encoder in variant.encoders.values())
    if not proportional or is_missing.all() or not is_missing.any():
        return ""
    return " (Tmax volumes in proportion to the measured ones)"
