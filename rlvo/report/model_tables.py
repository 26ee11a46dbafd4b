"""A report's tables of models: Table 2 (modalities, baselines, ensemble), Table 3 (backbones × prior × fusion), A1."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from rlvo.evaluation.answers import AnswerComparison
from rlvo.evaluation.metrics import over_folds
from rlvo.evaluation.performance import INTERVAL_METHODS, estimate_metrics
from rlvo.report.console import format_interval, format_mean_sd, format_p
from rlvo.report.exhibit import Exhibit, Standing
from rlvo.report.external import format_difference

METRICS = {
    "auc": "AUC",
    "balanced_accuracy": "balanced accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "f1": "F1",
}
"""On the page; the CSV has the AUPRC too."""
ENDS = {"": "value", "_low": "low", "_high": "high"}
"""What of an estimate has a column of its own, by the column's ending."""
SAW_CTA = "ncct_saw_cta"
"""Column of a design: "yes" if an NCCT member has the vessel prior."""
PRIOR = "* The vessel prior comes from CTA, so the NCCT model with it has seen CTA."
VALIDATION, NESTED = "validation AUC (optimistic)", "nested AUC (out of fold)"
INTERVALS = "95 % intervals: " + "; ".join(f"{name} by {INTERVAL_METHODS[metric]}" for metric, name in METRICS.items())
DECISIONS = (
    "AUC is of the score; balanced accuracy, sensitivity, specificity and F1 are of the decision. "
    f"Best of each column in bold. {INTERVALS}."
)


@dataclass(frozen=True, eq=False)
class ScoredModel:
    """One model's answers."""

    name: str
    answers: pd.DataFrame
    """One row per patient with an answer: `label`, `score`, `rlvo`, `probability`."""
    validation: pd.DataFrame | None = None
    """`classification_metrics` on validation patients, one row per fold: optimistic."""
    nested: pd.DataFrame | None = None
    """As `answers`, of the same model out of fold; None if `answers` are."""
    design: Mapping[str, str] = field(default_factory=dict)
    """What it is made of, by column of the CSV."""

    @cached_property
    def estimates(self) -> pd.DataFrame:
        """Its metrics with their intervals, as from `estimate_metrics`."""
        return estimate_metrics(self.answers["label"], self.answers["score"], self.answers["rlvo"])


def models_exhibit(
    name: str, title: str, models: Sequence[ScoredModel], *, standing: Standing, about: str, note: str = ""
) -> Exhibit:
    """One row per model, with intervals.

    Args:
        models: in the order of the rows.
        standing: of the answers.
        about: whose answers they are, in a sentence.
        note: what else is to be known.
    """
    rows, shown, estimates = [], [], []
    for model in models:
        found = model.estimates
        counts = {"patients": len(model.answers), "positives": int(model.answers["label"].sum())}
        row: dict[str, object] = {"model": model.name, **model.design, **counts}
        cells = {"": f"{model.name}*" if model.design.get(SAW_CTA) == "yes" else model.name}
        row |= {f"{metric}{end}": found.loc[metric, column] for metric in found.index for end, column in ENDS.items()}
        cells |= {heading: format_interval(*found.loc[metric]) for metric, heading in METRICS.items()}
        if model.nested is not None:
            own = model.nested
            nested = estimate_metrics(own["label"], own["score"], own["rlvo"], ["auc"])
            row |= {f"nested_auc{end}": nested.loc["auc", column] for end, column in ENDS.items()}
            cells[NESTED] = format_interval(*nested.loc["auc"])
        if model.validation is not None:
            mean, sd = map(float, over_folds(model.validation).loc["auc", ["mean", "sd"]])
            row |= {"validation_auc_mean": mean, "validation_auc_sd": sd}
            cells[VALIDATION] = format_mean_sd(mean, sd)
        rows.append(row)
        shown.append(cells)
        estimates.append(found["value"])
    return Exhibit(
        name,
        title,
        pd.DataFrame(rows),
        " ".join(filter(None, (about, note, _prior(models), DECISIONS, _folds(models)))),
        standing,
        pd.DataFrame(shown).fillna(""),
        _best(pd.DataFrame(estimates).reset_index(drop=True)) if len(models) > 1 else frozenset(),
    )


def _prior(models: Iterable[ScoredModel]) -> str:
    return PRIOR if any(model.design.get(SAW_CTA) == "yes" for model in models) else ""


def _folds(models: Iterable[ScoredModel]) -> str:
    if all(model.validation is None for model in models):
        return ""
    return "Validation AUC: mean ± SD over folds, where checkpoints, weights and thresholds were chosen."


def _best(values: pd.DataFrame) -> frozenset[tuple[int, str]]:
    cells = set()
    for metric, heading in METRICS.items():
        own = values[metric].round(12)
        cells |= {(int(row), heading) for row in own.index[own == own.max()]}
    return frozenset(cells)


def paired_exhibit(
    tests: Mapping[tuple[str, str], AnswerComparison], *, standing: Standing, about: str, name: str = "paired-tests"
) -> Exhibit:
    """One row per pair of models (a, b) on the same patients."""
    rows, shown = [], []
    for (a, b), found in tests.items():
        auc, decisions, chi2 = found.auc, found.decisions, found.decisions_chi2
        rows.append(
            {"a": a, "b": b, "patients": found.patients, "positives": found.positives, "auc_a": auc.auc_a}
            | {"auc_b": auc.auc_b, "standard_error": auc.standard_error, "delong_p": auc.p_value}
            | {"right_only_a": decisions.only_a, "right_only_b": decisions.only_b, "mcnemar_p": decisions.p_value}
            | {"mcnemar_chi2": chi2.statistic, "mcnemar_chi2_p": chi2.p_value}
        )
        alone = f"{decisions.only_a} / {decisions.only_b}"
        exact, by_chi2 = format_p(decisions.p_value), f"{chi2.statistic:.2f}, p {format_p(chi2.p_value)}"
        shown.append((f"{a} − {b}", format_difference(found), format_p(auc.p_value), alone, exact, by_chi2))
    headings = ["", "AUC difference", "DeLong p", "right alone", "McNemar p", "McNemar χ²"]
    caption = (
        f"{about} 95 % intervals: DeLong. McNemar: the exact test, and χ² without continuity correction. No p is "
        "corrected for the number of pairs."
    )
    return Exhibit(name, "Paired tests", pd.DataFrame(rows), caption, standing, pd.DataFrame(shown, columns=headings))
