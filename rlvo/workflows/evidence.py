"""What a report is about: the hold-out if it was opened for the ensembles as they are, else out-of-fold answers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from rlvo.config.base import content_hash
from rlvo.ensemble.build import STUDY_ENSEMBLE, study_ensembles, validation_metrics
from rlvo.ensemble.comparison import nested_answers, nested_basis, nested_probabilities
from rlvo.ensemble.selection import MODALITIES, searched_modalities
from rlvo.ensemble.spec import EnsembleSpec, first_names
from rlvo.evaluation.answers import answer_subgroups
from rlvo.evaluation.subgroups import SubgroupAnalysis
from rlvo.report.exhibit import Standing
from rlvo.report.model_tables import SAW_CTA, ScoredModel
from rlvo.study.folder import read_declared
from rlvo.study.trials import EndedTrials
from rlvo.workflows.disagreement import read_disagreements
from rlvo.workflows.holdout import Evaluation
from rlvo.workflows.holdout_questions import PairedTest, paired_tests
from rlvo.workflows.study import ReadStudy


@dataclass(frozen=True, eq=False)
class Evidence:
    """A study's models on the patients that its report is about."""

    standing: Standing
    about: str
    """Whose answers they are, in a sentence."""
    models: dict[str, ScoredModel]
    """The clinical baselines, then the ensembles, the study's own first."""
    specs: dict[str, EnsembleSpec]
    """The ensembles by name."""
    is_frozen: bool
    """Whether the ensembles were built, or are what would be built from the trials that have ended."""
    basis: str
    """Of the nested estimates."""
    tests: list[PairedTest]
    subgroups: list[SubgroupAnalysis]
    evaluation: Evaluation | None
    """What the last opening showed; None if the hold-out was not opened for these ensembles."""

    @property
    def own(self) -> pd.DataFrame:
        """The answers of the study's own ensemble."""
        return self.models[STUDY_ENSEMBLE].answers

    @property
    def modalities(self) -> list[str]:
        """The ensembles of one modality, unless that is the study's own."""
        first = first_names(self.specs)
        return [name for name in MODALITIES if name in self.models and first.get(name) == name]

    @property
    def by_spec(self) -> dict[str, ScoredModel]:
        """One ensemble per model spec: the rows of the paper's Table 3."""
        others = {STUDY_ENSEMBLE, *MODALITIES}
        return {name: self.models[name] for name in self.specs if name not in others and name in self.models}


def gather_evidence(study: ReadStudy, trials: EndedTrials, evaluation: Evaluation | None = None) -> Evidence:
    """A study's answers, opening nothing.

    Args:
        evaluation: what an opening of the hold-out showed of the declared ensembles; None: the evidence is nested.

    Raises:
        RlvoError: no configuration has finished all its folds, or kept files are damaged.
    """
    config, records, predictions = study.config, trials.records, trials.predictions
    settings = study.usable_settings(trials)
    is_frozen = study.folder.declared.is_file()
    specs = (
        read_declared(study.folder)
        if is_frozen
        else study_ensembles(
            records, predictions, settings, modalities=searched_modalities(config), missing=trials.missing,
            partial=True,
        )
    )  # fmt: skip
    nested = {
        name: own.rename(columns={"vote": "rlvo"})
        for name, own in nested_answers(records, predictions, settings).items()
    }
    spread = read_disagreements(study.folder).get(content_hash(specs[STUDY_ENSEMBLE]), math.nan)
    calibrated = nested_probabilities(records, predictions, settings, spread if math.isfinite(spread) else None)
    nested[STUDY_ENSEMBLE] = nested[STUDY_ENSEMBLE].assign(probability=calibrated["probability"])
    scored = nested[STUDY_ENSEMBLE].index
    nested |= {name: result.nested_answers().loc[scored] for name, result in study.baselines.items()}
    nested = {name: own.reindex(columns=["label", "score", "rlvo", "probability"]) for name, own in nested.items()}
    validation = {name: result.validation_metrics() for name, result in study.baselines.items()}
    validation |= {name: validation_metrics(spec, predictions) for name, spec in specs.items()}
    basis, label = nested_basis(records), study.inputs.label
    if evaluation is not None:
        answers = _holdout_answers(study, evaluation)
        opening = f"hold-out, opening {evaluation.holdout.opening}"
        standing: Standing = "optimistic" if evaluation.holdout.seen_before else "hold-out"
        tests, subgroups = evaluation.tests, evaluation.subgroups
    else:
        answers, opening = (
            {name: nested[name] for name in validation if name in nested},
            f"out of fold, nested: {basis}",
        )
        standing = "optimistic" if basis.startswith("optimistic") else "nested"
        tests = paired_tests(specs, answers, label)
        subgroups = answer_subgroups(answers[STUDY_ENSEMBLE], label, study.inputs.table)
    own = answers[STUDY_ENSEMBLE]
    about = f"{opening[0].upper()}{opening[1:]}; {len(own)} patients, {int(own['label'].sum())} with rLVO."
    models = {
        name: ScoredModel(
            name,
            of_name,
            validation[name],
            nested.get(name) if evaluation is not None else None,
            _design(specs[name]) if name in specs else {},
        )
        for name, of_name in answers.items()
    }
    return Evidence(standing, about, models, specs, is_frozen, basis, tests, subgroups, evaluation)


def _holdout_answers(study: ReadStudy, evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    """Of the baselines and every ensemble, by name; patients without an answer are left out."""
    label = study.inputs.label
    answers = {name: result.score(study.test) for name, result in study.baselines.items()}
    answers = {name: own.assign(label=label.loc[own.index]) for name, own in answers.items()}
    by_name = evaluation.holdout.answers.groupby("ensemble", sort=False)
    answers |= {str(name): own.set_index("patient_id") for name, own in by_name}
    return {name: own[own["score"].notna()].astype({"rlvo": int}) for name, own in answers.items()}


def _design(spec: EnsembleSpec) -> dict[str, str]:
    """What an ensemble is made of, by column."""
    models = [configuration.model for configuration in spec.configurations]
    parts: Mapping[str, list[str]] = {
        "backbone": [*(model.backbone for model in models), *(["linear"] if spec.linear_image else [])],
        "prior": ["yes" if model.prior else "no" for model in models],
        "fusion": [*(model.fusion for model in models), *(["late"] if spec.has_table else [])],
        "modalities": [model.modality for model in models],
    }
    saw = any(model.prior and model.modality == "NCCT" for model in models)
    return {name: ", ".join(dict.fromkeys(values)) for name, values in parts.items()} | {
        SAW_CTA: "yes" if saw else "no"
    }
