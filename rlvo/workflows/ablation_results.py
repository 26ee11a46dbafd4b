"""Models A, B and C on the same patients, from what lies in their studies' folders; no hold-out is opened for it."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from rlvo.ensemble.build import STUDY_ENSEMBLE, validation_metrics
from rlvo.ensemble.comparison import nested_basis, nested_margins
from rlvo.ensemble.fitting import Validation
from rlvo.ensemble.spec import EnsembleSpec
from rlvo.errors import RlvoError
from rlvo.evaluation.answers import AnswerComparison, compare_answers
from rlvo.evaluation.errors_by_cause import error_breakdown
from rlvo.report.ablation import ablation_exhibits
from rlvo.report.exhibit import Exhibit, Standing
from rlvo.report.model_tables import ScoredModel
from rlvo.study.ablation import AblationPlan, read_plan
from rlvo.study.folder import StudyFolder, read_declared
from rlvo.study.trials import EndedTrials
from rlvo.workflows.holdout import HoldOut, kept_holdout
from rlvo.workflows.study import ReadStudy, read_study

PAIRS = (("A", "B"), ("B", "C"), ("A", "C"))


@dataclass(frozen=True, eq=False)
class ModelComparison:
    """Models A, B and C on the same patients."""

    standing: Standing
    about: str
    """Whose answers they are, in a sentence."""
    models: dict[str, ScoredModel]
    """By letter."""
    tests: dict[tuple[str, str], AnswerComparison]
    """By letters; pairs with too few answers of a class in common are left out."""
    errors: pd.DataFrame
    """As from `error_breakdown`, `model` being the letter."""
    patients: pd.DataFrame
    """As in `AblationResults`."""
    out_of_fold: bool

    @property
    def exhibits(self) -> list[Exhibit]:
        """Table 4, the tests and the errors."""
        return ablation_exhibits(
            self.patients,
            self.models,
            self.tests,
            self.errors,
            standing=self.standing,
            about=self.about,
            out_of_fold=self.out_of_fold,
        )


@dataclass(frozen=True, eq=False)
class AblationResults:
    """What an ablation has shown so far."""

    plan: AblationPlan
    patients: pd.DataFrame
    """One row per model: `model` (letter), `study`; how many `predictors`, `development`, `training_only` and `test`
    patients."""
    nested: ModelComparison
    """Out of fold: thresholds and rates from the other folds."""
    holdout: ModelComparison | None
    """None if the hold-out was not opened for these models as they are."""


def read_ablation(study: ReadStudy) -> AblationResults | None:
    """Compare Models A, B and C of a study; None if they are not all trained and built.

    Raises RlvoError if files of one of the studies are damaged.
    """
    plan = read_plan(study.folder)
    if plan is None:
        return None
    studies = {"A": study}
    for letter, name in plan.models.items():
        if not StudyFolder(study.work.study(name)).config.is_file():
            return None
        studies[letter] = read_study(name, study.work, cohort=study.config.cohort.table)
    if not all(each.folder.declared.is_file() for each in studies.values()):
        return None
    declared = {letter: read_declared(each.folder) for letter, each in studies.items()}
    trials = {letter: each.ended_trials() for letter, each in studies.items()}
    specs = {letter: each[STUDY_ENSEMBLE] for letter, each in declared.items()}
    validation = {letter: validation_metrics(spec, trials[letter].predictions) for letter, spec in specs.items()}
    nested = {letter: _nested_answers(trials[letter], specs["A"], each) for letter, each in studies.items()}
    shared = sorted(set.intersection(*({*own.index} for own in nested.values())))
    nested = {letter: own.loc[shared] for letter, own in nested.items()}
    basis = nested_basis(trials["A"].records)
    about = f"Out of fold, nested: {basis}; {_count(nested['A'])}."
    standing: Standing = "optimistic" if basis.startswith("optimistic") else "nested"
    models = {letter: ScoredModel(letter, own, validation[letter]) for letter, own in nested.items()}
    patients = pd.DataFrame([_patients(letter, each) for letter, each in studies.items()])
    out_of_fold = _compare(study, standing, about, models, patients, out_of_fold=True)
    return AblationResults(
        plan, patients, out_of_fold, _on_holdout(study, studies, declared, validation, nested, patients)
    )


def _on_holdout(
    study: ReadStudy,
    studies: Mapping[str, ReadStudy],
    declared: Mapping[str, Mapping[str, EnsembleSpec]],
    validation: Mapping[str, pd.DataFrame],
    nested: Mapping[str, pd.DataFrame],
    patients: pd.DataFrame,
) -> ModelComparison | None:
    kept: dict[str, HoldOut] = {}
    for letter, each in studies.items():
        if (found := kept_holdout(each.folder, declared[letter])) is None:
            return None
        kept[letter] = found
    answers = {letter: _answered(each.own_answers) for letter, each in kept.items()}
    numbers = sorted({each.opening for each in kept.values()})
    which = f"opening {numbers[0]}" if len(numbers) == 1 else f"openings {', '.join(map(str, numbers))}"
    seen = max(each.seen_before for each in kept.values())
    standing: Standing = "optimistic" if seen else "hold-out"
    before = f"; {seen} had been seen before, so the figures are optimistic" if seen else ""
    about = f"Hold-out, {which}; {_count(answers['A'])}{before}."
    models = {letter: ScoredModel(letter, own, validation[letter], nested[letter]) for letter, own in answers.items()}
    return _compare(study, standing, about, models, patients)


def _compare(
    study: ReadStudy,
    standing: Standing,
    about: str,
    models: Mapping[str, ScoredModel],
    patients: pd.DataFrame,
    *,
    out_of_fold: bool = False,
) -> ModelComparison:
    answers, label = {letter: model.answers for letter, model in models.items()}, study.inputs.label
    tests = {}
    for a, b in PAIRS:
        if a in answers and b in answers:
            common = answers[a].index.intersection(answers[b].index)
            try:
                tests[a, b] = compare_answers(answers[a].loc[common], answers[b].loc[common], label)
            except RlvoError:  # too few
                continue
    errors = error_breakdown(answers, study.inputs.table.get("etiology"))
    return ModelComparison(standing, about, dict(models), tests, errors, patients, out_of_fold)


def _nested_answers(trials: EndedTrials, spec: EnsembleSpec, study: ReadStudy) -> pd.DataFrame:
    """Of an ensemble of the configurations that Model A has, and no others."""
    own = [r for r in trials.records if r.configuration in spec.configurations or r.outcome == "pruned"]
    settings = study.usable_settings(trials)
    found = nested_margins(own, Validation.of(trials.predictions, settings), settings.selection, settings.weighting)
    return found.rename(columns={"vote": "rlvo"})


def _answered(answers: pd.DataFrame) -> pd.DataFrame:
    return answers[answers["score"].notna()].astype({"rlvo": int})


def _count(answers: pd.DataFrame) -> str:
    return f"{len(answers)} patients, {int(answers['label'].sum())} with rLVO"


def _patients(letter: str, study: ReadStudy) -> dict[str, object]:
    split = study.inputs.split
    return {
        "model": letter,
        "study": study.config.name,
        "predictors": len(study.inputs.predictors),
        "development": len(split.development),
        "training_only": len(split.training_only),
        "test": len(split.test),
    }
