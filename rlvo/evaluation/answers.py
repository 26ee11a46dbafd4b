"""What a frozen model's answers are worth on patients it was not made from, and whether two models' answers differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from rlvo.errors import RlvoError
from rlvo.evaluation.calibration import Calibration, calibration
from rlvo.evaluation.comparison import DeLongResult, McNemarResult, delong, mcnemar
from rlvo.evaluation.figures import estimates
from rlvo.evaluation.subgroups import Subgroup, standard_groupings, subgroup


@dataclass(frozen=True)
class AnswerFigures:
    """One model's answers on one set of patients, at its own thresholds; nothing is fitted to them."""

    patients: int
    """That were answered for, as are the positives; all figures are theirs."""
    positives: int
    unanswered: int
    unanswered_positives: int
    estimates: pd.DataFrame
    """Of `rlvo.evaluation.figures.estimates`."""
    calibration: Calibration | None
    """Of `probability`; None where the model gives none."""


@dataclass(frozen=True)
class AnswerComparison:
    """Two models' answers to the same patients."""

    patients: int
    """Whom both answered for, as are the positives; all figures are theirs."""
    positives: int
    only_a: int
    """Whom a alone answered for; so `only_b`, and `neither`."""
    only_b: int
    neither: int
    estimates_a: pd.DataFrame
    estimates_b: pd.DataFrame
    auc: DeLongResult
    decisions: McNemarResult
    """Exact."""
    changed: pd.DataFrame
    """Who is decided otherwise: index patient id, `label`, `rlvo_a`, `rlvo_b`, `score_a`, `score_b`."""


def answer_figures(answers: pd.DataFrame, label: pd.Series) -> AnswerFigures:
    """Figures of a model's answers.

    Args:
        answers: index patient id, columns `rlvo`, `score`, `probability`; missing where there is no answer.
        label: 0 or 1 of each of these patients.

    Raises:
        RlvoError: nobody was answered for.
    """
    truth, is_answered = label.loc[answers.index].to_numpy(int), _is_answered(answers)
    _check_any(is_answered)
    own, y = answers[is_answered], truth[is_answered]
    probability = own["probability"].to_numpy(float)
    return AnswerFigures(
        patients=len(own),
        positives=int(y.sum()),
        unanswered=int((~is_answered).sum()),
        unanswered_positives=int(truth[~is_answered].sum()),
        estimates=estimates(y, own["score"].to_numpy(float), own["rlvo"].to_numpy(int)),
        calibration=calibration(y, probability) if np.isfinite(probability).all() else None,
    )


def answer_subgroups(answers: pd.DataFrame, label: pd.Series, table: pd.DataFrame) -> list[Subgroup]:
    """The same answers by sex, age, site, center and etiology, those that the checked cohort table has."""
    own = answers[_is_answered(answers)]
    y = label.loc[own.index]
    groupings = standard_groupings(table.loc[own.index], y)
    score, vote = own["score"].to_numpy(float), own["rlvo"].to_numpy(int)
    return [subgroup(name, level, y, score, vote) for name, level in groupings.items()]


def compare_answers(a: pd.DataFrame, b: pd.DataFrame, label: pd.Series) -> AnswerComparison:
    """Two models on the patients that both answer for: DeLong's test of scores, McNemar's exact test of decisions.

    Args:
        a, b: as `answer_figures` takes them, of the same patients.
        label: 0 or 1 of each of these patients.

    Raises:
        RlvoError: fewer than two patients of a class were answered for by both.
    """
    b = b.loc[a.index]
    by_a, by_b = _is_answered(a), _is_answered(b)
    both = by_a & by_b
    _check_any(both)
    y = label.loc[a.index[both]].to_numpy(int)
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
        estimates_a=estimates(y, score_a, vote_a),
        estimates_b=estimates(y, score_b, vote_b),
        auc=delong(y, score_a, score_b),
        decisions=mcnemar(y, vote_a, vote_b),
        changed=paired[vote_a != vote_b],
    )


def _is_answered(answers: pd.DataFrame) -> np.ndarray:
    return np.isfinite(answers["score"].to_numpy(float)) & answers["rlvo"].notna().to_numpy()


def _check_any(is_answered: np.ndarray) -> None:
    if not is_answered.any():
        raise RlvoError("no patient could be answered for", fix="The answers' warnings say why")
