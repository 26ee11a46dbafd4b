"""Odds ratios of a multivariate logistic fit (section 3.1, figure A1)."""

import math

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.linalg import null_space, qr
from scipy.optimize import linprog
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from rlvo.evaluation.metrics import TAILS, labels_and_scores

TOLERANCE = 1e-6
"""For columns scaled to a range of 1."""
MIN_EVENTS = 10
"""Per term of a fit; with fewer, odds ratios are unreliable (Peduzzi et al. 1996; Riley et al. 2019)."""


def odds_ratios(design: pd.DataFrame, y: ArrayLike) -> pd.DataFrame:
    """Odds ratios for one unit of each column of `design`; arguments and errors are those of `log_odds`.

    Returns:
        One row per column: `term`, `odds_ratio`, `low`, `high` (Wald, 95 %), `p`, `note`; NaN if not estimable.
    """
    found = log_odds(design, y)
    margin = norm.ppf(TAILS[1]) * found["error"]
    with np.errstate(over="ignore"):
        found["odds_ratio"] = np.exp(found["log_odds"])
        found["low"] = np.exp(found["log_odds"] - margin)
        found["high"] = np.exp(found["log_odds"] + margin)
    return found[["term", "odds_ratio", "low", "high", "p", "note"]]


def events_per_variable(y: ArrayLike, terms: int) -> float:
    """Patients of the rarer class of `y` (0 or 1) per term of a fit; infinity without a term."""
    labels = labels_and_scores(y)[0]
    return min(int(labels.sum()), int((~labels.astype(bool)).sum())) / terms if terms else math.inf


def log_odds(design: pd.DataFrame, y: ArrayLike) -> pd.DataFrame:
    """Maximum-likelihood log odds ratios for one unit of each column of `design`.

    A term is not estimable if it is constant, collinear with others or, alone or with others, separates the classes:
    its estimates are NaN and its `note` says why. The other terms' estimates are those of the limiting model (Geyer
    2009).

    Args:
        design: numbers [N, T] without an intercept.
        y: 0 or 1 [N].

    Returns:
        One row per column: `term`, `log_odds`, `error` (standard error), `p` (Wald), `note`.

    Raises:
        ValueError: one class only.
    """
    import statsmodels.api as sm

    values, labels = design.to_numpy(np.float64), labels_and_scores(y)[0]
    if labels.all() or not labels.any():
        raise ValueError("odds ratios need patients of both classes")
    span = np.ptp(values, axis=0)
    scale = np.where(span > 0, span, 1)
    x = np.column_stack([np.ones(len(values)), (values - values.min(axis=0)) / scale])
    telling = ~_separated(x, labels)
    free = _null_directions(x[telling])
    is_open = np.abs(free).max(axis=1, initial=0) > TOLERANCE

    estimates = np.full((len(is_open), 3), np.nan)
    if not is_open.all():
        chosen = np.sort(qr(x[telling], mode="r", pivoting=True)[1][: x.shape[1] - free.shape[1]])
        decisive, outcomes = x[np.ix_(telling, chosen)], labels[telling]
        # statsmodels' own Newton steps are not safeguarded and diverge if the classes are nearly separated.
        maximum = LogisticRegression(C=np.inf, fit_intercept=False, solver="newton-cg", tol=1e-8, max_iter=1000)
        start = maximum.fit(decisive, outcomes).coef_[0]
        with np.errstate(over="ignore"):
            fit = sm.Logit(outcomes.astype(float), decisive).fit(
                start, disp=0, method="minimize", min_method="trust-exact"
            )
        per_unit = np.r_[1, scale][chosen]
        estimates[chosen] = np.column_stack([fit.params / per_unit, fit.bse / per_unit, fit.pvalues])
        estimates[is_open] = np.nan
    is_collinear = np.abs(_null_directions(x)).max(axis=1, initial=0) > TOLERANCE
    notes = np.select(
        [np.r_[False, span == 0], is_collinear, is_open],
        ["the same in every patient", "collinear with other terms", "separates the classes"],
        default="",
    )
    table = pd.DataFrame(estimates[1:], columns=["log_odds", "error", "p"])
    table.insert(0, "term", design.columns)
    return table.assign(note=notes[1:])


def _separated(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Find the patients [N] whom some linear rule that errs on no patient puts strictly on their side (Konis 2007).

    Maximum likelihood sends such a rule's coefficients to infinity; the other patients decide what stays finite.
    """
    signed = np.where(labels, 1, -1)[:, None] * x
    separated = np.zeros(len(x), bool)
    while not separated.all():
        rows = np.flatnonzero(~separated)
        rule = linprog(-signed[rows].sum(axis=0), A_ub=-signed[rows], b_ub=np.zeros(len(rows)), bounds=(-1, 1)).x
        strictly = signed[rows] @ rule > TOLERANCE
        if not strictly.any():
            break
        separated[rows[strictly]] = True
    return separated


def _null_directions(x: np.ndarray) -> np.ndarray:
    """Combinations of columns that are zero for every patient, [T, K]."""
    return null_space(np.linalg.qr(x, mode="r"), rcond=TOLERANCE) if len(x) else np.eye(x.shape[1])
