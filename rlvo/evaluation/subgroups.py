"""One model in groups of patients: its metrics with intervals and counts, and tests of whether they differ."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import chi2, fisher_exact

from rlvo.evaluation.metrics import auc_components, expected_auc_variance, labels_and_scores
from rlvo.evaluation.performance import estimate_metrics

FEW = 10
"""If a level has fewer patients of a class than this, tests say little: a note says so."""
REPORTED = ("auc", "sensitivity", "specificity")
"""Metrics of each level."""
TESTS = ("AUC", "sensitivity", "specificity", "calibration")
"""What is compared between levels."""
SIMULATIONS = 9999
"""Draws behind a p-value that is simulated."""
TINY = 1e-9
"""Probabilities are kept this far from 0 and 1."""
ROUNDING = 1e-9
"""Statistics that differ by less are equal."""
NAN = float("nan")
COLUMNS = ("sex", "age", "occlusion_site", "center", "etiology")


@dataclass(frozen=True)
class SubgroupAnalysis:
    """One grouping of patients. NaN: not estimable, or not tested.

    p-values are each of one test alone, but for those in `corrected`.
    """

    name: str
    levels: pd.DataFrame
    """One row per level: `level`, `patients`, `positives`, then each of `REPORTED` with its `_low` and `_high`
    (95 %)."""
    ungrouped: int
    """Patients without a level; they are left out."""
    auc_p: float
    """Of the test whether the levels' AUCs differ."""
    sensitivity_p: float
    """Of the test whether their sensitivities differ."""
    specificity_p: float
    """Of the test whether their specificities differ."""
    calibration_p: float
    """Of the test whether their calibration in the large differs."""
    decision_p: float
    """Whether sensitivity or specificity differs: the lower of the two, corrected by Holm's method for both."""
    notes: tuple[str, ...]
    """Why a test was not done or says little."""
    corrected: dict[str, float]
    """The p-values by the names of `TESTS`, corrected by Holm's method for all tests of all groupings analysed
    together."""


def standard_groupings(table: pd.DataFrame, label: pd.Series) -> dict[str, pd.Series]:
    """Sex, age, occlusion site, center and etiology by name, as far as a checked cohort table has them.

    Age is cut at its median. Etiology counts as the cause of an rLVO (section 3.2): patients without one have no level.
    """
    known = table.assign(etiology=table["etiology"].where(label == 1)) if "etiology" in table else table
    found = {name: known[name] for name in COLUMNS if name in known and known[name].notna().any()}
    if "age" in found:
        median = float(found["age"].median())
        names = [f"< {median:g}", f"≥ {median:g}"]
        found["age"] = pd.cut(found["age"], [-np.inf, median, np.inf], right=False, labels=names)
    return found


def analyse_subgroups(
    name: str,
    level: pd.Series,
    y_true: ArrayLike,
    score: ArrayLike,
    vote: ArrayLike,
    probability: ArrayLike | None = None,
) -> SubgroupAnalysis:
    """Measure a model in each level of one grouping, and test whether it is equally good in all of them.

    AUCs are compared by `equal_aucs`, sensitivities and specificities each by Fisher's exact test (for more than two
    levels by χ² with its exact distribution, simulated), calibration in the large by `equal_calibration`. If only
    positives have levels (etiology), each level's positives are set against all negatives, and only AUCs and
    sensitivities can differ.

    Args:
        level: of N patients; NaN for none.
        y_true: 0 or 1 [N].
        score: on any monotone scale [N].
        vote: 0 or 1 [N].
        probability: [N]; None if the model gives none.

    Raises:
        ValueError: no patient has a level, or labels, scores, votes or probabilities are invalid.
    """
    labels, scores, votes = labels_and_scores(y_true, score, vote)
    if len(level) != len(labels) or level.isna().all():
        raise ValueError(f"no patient has a level of {name}")
    given = level.notna().to_numpy()
    of_positives = not (given & ~labels).any()
    names = level.astype("category").cat.categories
    members = {str(each): (level == each).to_numpy() for each in names if (level == each).any()}
    groups = {each: own | ~labels if of_positives else own for each, own in members.items()}
    rows: list[dict[str, object]] = []
    for each, own in members.items():
        rows.append({"level": each, "patients": int(own.sum()), "positives": int((own & labels).sum())})
        y, of_scores, of_votes = (values[groups[each]] for values in (labels, scores, votes))
        found = estimate_metrics(y, of_scores, of_votes, REPORTED)
        for metric in REPORTED:
            columns = (metric, f"{metric}_low", f"{metric}_high")
            rows[-1] |= dict(zip(columns, found.loc[metric], strict=True))
    notes = [
        f"{each}: only {count} {kind}"
        for each, own in groups.items()
        for kind, count in (("with rLVO", int((own & labels).sum())), ("without", int((own & ~labels).sum())))
        if count < FEW
    ]
    levels, right = list(members.values()), (votes == 1) == labels
    tests = {
        "AUC": equal_aucs(labels, scores, list(groups.values())),
        "sensitivity": _rate_test(right, labels, levels),
        "specificity": NAN if of_positives else _rate_test(right, ~labels, levels),
        "calibration": NAN,
    }
    if probability is not None and not of_positives and len(levels) > 1:
        tests["calibration"] = equal_calibration(labels, probability, levels)
    if len(levels) < 2:
        notes = [*notes, "there is one level only: nothing to compare"]
    return SubgroupAnalysis(
        name=name,
        levels=pd.DataFrame(rows),
        ungrouped=int((~given & labels).sum() if of_positives else (~given).sum()),
        auc_p=tests["AUC"],
        sensitivity_p=tests["sensitivity"],
        specificity_p=tests["specificity"],
        calibration_p=tests["calibration"],
        decision_p=float(np.fmin.reduce(_holm([tests["sensitivity"], tests["specificity"]]))),
        notes=tuple(notes),
        corrected=dict(zip(TESTS, _holm(list(tests.values())), strict=True)),
    )


def correct_together(analyses: Sequence[SubgroupAnalysis]) -> list[SubgroupAnalysis]:
    """The same analyses, their `corrected` p-values being for all their tests as one family (Holm 1979)."""
    p_values = [[each.auc_p, each.sensitivity_p, each.specificity_p, each.calibration_p] for each in analyses]
    rows = np.reshape(_holm(np.ravel(p_values)), (-1, len(TESTS))).tolist()
    return [replace(a, corrected=dict(zip(TESTS, row, strict=True))) for a, row in zip(analyses, rows, strict=True)]


def equal_aucs(y_true: ArrayLike, score: ArrayLike, groups: Sequence[ArrayLike]) -> float:
    """Test if one score has the same AUC in K groups of patients: p of χ² on K − 1 degrees.

    The variances are those that AUCs of groups of this size have if all are equal (`expected_auc_variance`). DeLong's,
    estimated from the few positives of a small group, would find differences where there are none.

    Args:
        groups: a mask [N] per group. Positives are distinct; negatives are distinct too, or the same in every group.

    Returns:
        p; NaN if fewer than two groups have both classes.
    """
    labels, scores = labels_and_scores(y_true, score)
    masks = [mask for mask in np.array(groups, bool) if (mask & labels).any() and (mask & ~labels).any()]
    if len(masks) < 2:
        return NAN
    aucs = np.array([auc_components(labels[mask], scores[mask])[0].mean() for mask in masks])
    m, n = np.array([[(mask & of_class).sum() for of_class in (labels, ~labels)] for mask in masks]).T
    common = float(np.average(aucs, weights=m * n / (m + n + 1)))
    if not ROUNDING < common < 1 - ROUNDING:
        return 1.0
    variance, shared = expected_auc_variance(common, m, n)
    if all(np.array_equal(mask & ~labels, masks[0] & ~labels) for mask in masks):
        variance = variance - shared
    away = aucs - np.average(aucs, weights=1 / variance)
    return float(chi2.sf((away**2 / variance).sum(), len(masks) - 1))


def equal_calibration(y_true: ArrayLike, probability: ArrayLike, groups: Sequence[ArrayLike]) -> float:
    """Test if probabilities are equally well calibrated in the large in K groups of distinct patients.

    The log-odds are first shifted so that all groups together are calibrated. The statistic is the score test's,
    Σ (observed − expected)² / variance over groups; its distribution is simulated from the shifted probabilities,
    because χ² on K − 1 degrees is far off if few events are expected.

    Args:
        y_true: 0 or 1 [N].
        probability: [N], within 0–1.
        groups: a mask [N] per group.

    Returns:
        p, at least 1/(SIMULATIONS + 1); NaN if all patients belong to one class.
    """
    labels, p = labels_and_scores(y_true, probability)
    member = np.array([np.asarray(group, bool) for group in groups], float)
    grouped = member.any(axis=0)
    labels, member = labels[grouped], member[:, grouped]
    log_odds = logit(np.clip(p[grouped], TINY, 1 - TINY))
    if labels.all() or not labels.any():
        return NAN
    span = np.ptp(log_odds) + abs(log_odds).max() + logit(1 - TINY)
    shift = brentq(lambda by: expit(log_odds + by).sum() - labels.sum(), -span, span)
    expected = np.clip(expit(log_odds + shift), TINY, 1 - TINY)
    of_patient = expected * (1 - expected)
    variance = member @ of_patient

    def statistic(outcomes: np.ndarray) -> np.ndarray:
        """Of outcomes [B, N]. What a new shift would take away is subtracted to first order."""
        excess = outcomes - expected
        residual = excess @ member.T - np.outer(excess.sum(axis=1), variance / variance.sum())
        return np.asarray((residual**2 / variance).sum(axis=1))

    random = np.random.default_rng(0)
    simulated, found = statistic(random.random((SIMULATIONS, len(labels))) < expected), statistic(labels[None])
    return float((1 + (simulated >= found - ROUNDING).sum()) / (SIMULATIONS + 1))


def _rate_test(right: np.ndarray, of_class: np.ndarray, levels: Sequence[np.ndarray]) -> float:
    """Compare the shares of a class's patients who are decided right, between the levels that have any."""
    own = [level & of_class for level in levels]
    counts = np.array([[(each & right).sum(), (each & ~right).sum()] for each in own if each.any()])
    if len(counts) < 2:
        return NAN
    if len(counts) == 2:
        return float(fisher_exact(counts).pvalue)
    patients, (rights, _) = counts.sum(axis=1), counts.sum(axis=0)
    simulated = np.random.default_rng(0).multivariate_hypergeometric(patients, rights, SIMULATIONS)
    # With fixed margins χ² grows with this sum.
    found, others = (np.asarray(each**2 / patients).sum(axis=-1) for each in (counts[:, 0], simulated))
    return float((1 + (others >= found - ROUNDING).sum()) / (SIMULATIONS + 1))


def _holm(p_values: ArrayLike) -> list[float]:
    """Corrected by Holm's method (1979); a NaN stays one and counts for no test.

    statsmodels' function has the garbage collected twice per call, which takes seconds in a process with many objects.
    """
    p = np.array(p_values, float)
    done = np.flatnonzero(~np.isnan(p))
    order = done[np.argsort(p[done])]
    p[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return [float(each) for each in p]
