"""How good a frozen model's answers are on patients it was not built from, and whether two models' answers differ."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from rlvo.errors import RlvoError
from rlvo.evaluation.calibration import Calibration, measure_calibration
from rlvo.evaluation.comparison import DeLongResult, McNemarResult, delong, mcnemar
from rlvo.evaluation.performance import estimate_metrics
from rlvo.evaluation.subgroups import SubgroupAnalysis, analyse_subgroups, correct_together, standard_groupings


@dataclass(frozen=True)
class AnswerPerformance:
    """One model on one set of patients, at its own thresholds; nothing is fitted to them."""

    patients: int
    """Those with an answer, whom `positives`, `estimates` and `calibration` are about."""
    positives: int
    unanswered: int
    unanswered_positives: int
    estimates: pd.DataFrame
    """As from `estimate_metrics`."""
    calibration: Calibration | None
    """Of `probability`; None if the model gives none."""


@dataclass(frozen=True)
class AnswerComparison:
    """Two models' answers to the same patients."""

    patients: int
    """Those with an answer from both, whom all results are about."""
    positives: int
    only_a: int
    """Patients with an answer from a alone; likewise `only_b` and `neither`."""
    only_b: int
    neither: int
    estimates_a: pd.DataFrame
    estimates_b: pd.DataFrame
    auc: DeLongResult
    decisions: McNemarResult
    """By the exact test."""
    decisions_chi2: McNemarResult
    """By χ², the paper's form."""
    changed: pd.DataFrame
    """Patients whose decision differs: index patient id, `label`, `rlvo_a`, `rlvo_b`, `score_a`, `score_b`."""


def measure_answers(answers: pd.DataFrame, label: pd.Series) -> AnswerPerformance:
    """Measure the performance of a model's answers.

    Args:
        answers: index patient id, columns `rlvo`, `score`, `probability`; missing values for a patient without an
            answer.
        label: 0 or 1 for each of these patients.

    Raises:
        RlvoError: no patient has an answer.
    """
    truth, is_answered = label.loc[answers.index].to_numpy(int), _is_answered(answers)
    own, y = answers[is_answered], truth[is_answered]
    probability = own["probability"].to_numpy(float)
    return AnswerPerformance(
        patients=len(own),
        positives=int(y.sum()),
        unanswered=int((~is_answered).sum()),
        unanswered_positives=int(truth[~is_answered].sum()),
        estimates=estimate_metrics(y, own["score"].to_numpy(float), own["rlvo"].to_numpy(int)),
        calibration=measure_calibration(y, probability) if np.isfinite(probability).all() else None,
    )


def answer_subgroups(answers: pd.DataFrame, label: pd.Series, table: pd.DataFrame) -> list[SubgroupAnalysis]:
    """The same answers by sex, age, site, center and etiology, as far as the checked cohort table has them.

    Their p-values are corrected together.
    """
    own = answers[_is_answered(answers)]
    y = label.loc[own.index]
    groupings = standard_groupings(table.loc[own.index], y)
    score, vote = own["score"].to_numpy(float), own["rlvo"].to_numpy(int)
    probability = own["probability"].to_numpy(float)
    given = probability if np.isfinite(probability).all() else None
    return correct_together([analyse_subgroups(name, each, y, score, vote, given) for name, each in groupings.items()])


def compare_answers(a: pd.DataFrame, b: pd.DataFrame, label: pd.Series) -> AnswerComparison:
    """Compare two models on the patients who have an answer from both, by DeLong's test and McNemar's exact test.

    Args:
        a, b: answers as for `measure_answers`, about the same patients.
        label: 0 or 1 for each of these patients.

    Raises:
        RlvoError: fewer than two patients of a class have an answer from both.
    """
    b = b.loc[a.index]
    by_a, by_b = _is_answered(a), _is_answered(b)
    both = by_a & by_b
    y = label.loc[a.index[both]].to_numpy(int)
    if min(y.sum(), (1 - y).sum()) < 2:
        fix = "The warnings beside the answers say who could not be scored"
        raise RlvoError("fewer than two patients of a class have answers from both models", fix=fix)
    score_a, score_b = (each.loc[both, "score"].to_numpy(float) for each in (a, b))
    vote_a, vote_b = (each.loc[both, "rlvo"].to_numpy(int) for each in (a, b))
    paired = pd.DataFrame(
        {"label": y, "rlvo_a": vote_a, "rlvo_b": vote_b, "score_a": score_a, "score_b": score_b}, index=a.index[both]
    )
    return AnswerComparison(
        patients=len(y),
        positives=int(y.sum()),
        only_a=int((by_a & ~by_b).sum()),
        only_b=int((by_b & ~by_a).sum()),
        neither=int((~by_a & ~by_b).sum()),
        estimates_a=estimate_metrics(y, score_a, vote_a),
        estimates_b=estimate_metrics(y, score_b, vote_b),
        auc=delong(y, score_a, score_b),
        decisions=mcnemar(y, vote_a, vote_b),
        decisions_chi2=mcnemar(y, vote_a, vote_b, "chi2"),
        changed=paired[vote_a != vote_b],
    )


def _is_answered(answers: pd.DataFrame) -> np.ndarray:
    return np.asarray(np.isfinite(answers["score"].to_numpy(float)) & answers["rlvo"].notna())
