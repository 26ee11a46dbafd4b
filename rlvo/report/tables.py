"""Results as tables in a terminal: every estimate with its interval, and what is optimistic marked as such."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from rlvo.cohort.labels import term_label, variable_name
from rlvo.evaluation.answers import AnswerComparison
from rlvo.evaluation.metrics import over_folds
from rlvo.evaluation.performance import Performance
from rlvo.evaluation.subgroups import REPORTED, SubgroupAnalysis
from rlvo.report.console import (
    format_interval,
    format_mean_sd,
    format_number,
    format_odds,
    format_p,
    literal,
    numeric,
    text_table,
)
from rlvo.report.external import format_difference

BASELINE_HEADINGS = {
    "auc": "AUC",
    "auprc": "AUPRC",
    "balanced_accuracy": "bal.\nacc.*",
    "f1": "F1*",
    "sensitivity": "sens.*",
    "specificity": "spec.*",
}

WHAT_ROWS_ARE = {
    "all clinical": "NIHSS … all clinical: the baselines, without images (boosted: trees).",
    "linear image.*": "linear image: 16 mm blocks, ridge, learned beside the table; asked without and with it.",
    "NCCT|CTA|BOTH": "NCCT, CTA, BOTH: the ensemble's networks of one scan, or of both.",
    ".+ (none|concat|film|daft)": "none: images alone; concat, film, daft: fused with the table.",
}
"""Notes below a table of models by the names of the rows that they explain."""


@dataclass(frozen=True)
class ModelResults:
    """One model's validation metrics, one row per fold (optimistic), and its performance on the hold-out."""

    validation: pd.DataFrame
    holdout: Performance
    ceiling: float | None = None
    """The best AUC that any model could reach, if the truth is known."""
    same_as: str | None = None
    """The name under which this very ensemble is shown already."""


def performance_table(models: Mapping[str, ModelResults], *, title: str) -> Table:
    """One row per model, in the order given; one that is shown already is named below the table."""
    distinct = {name: model for name, model in models.items() if model.same_as is None}
    notes = [
        *(f"{model.same_as} and {name} are the same ensemble." for name, model in models.items() if model.same_as),
        *(note for rows, note in WHAT_ROWS_ARE.items() if any(re.fullmatch(rows, name) for name in models)),
    ]
    first = next(iter(models.values())).holdout
    ceiling = ["best\npossible"] if any(model.ceiling is not None for model in models.values()) else []
    if ceiling:
        notes.append("Best possible: the AUC of the known truth, from the same inputs.")
    headings = ("validation\nAUC*", "hold-out\nAUC", *ceiling, "bal.\nacc.", "sens.", "spec.", "F1")
    rows = []
    for name, model in distinct.items():
        auc, seen = over_folds(model.validation).loc["auc", ["mean", "sd"]], model.holdout
        others = (seen.balanced_accuracy, seen.sensitivity, seen.specificity, seen.f1)
        cells = [format_mean_sd(*auc), format_interval(seen.auc, *seen.interval)]
        shown = [model.ceiling, *others] if ceiling else others
        rows.append([name, *cells, *map(format_number, shown)])
    return text_table(
        ["", *map(numeric, headings)],
        rows,
        title=title,
        caption=f"Hold-out: {first.patients} patients, {first.positives} rLVO; "
        f"95 % intervals: {first.interval_method}.\n"
        + "\n".join(["* Optimistic: checkpoints, weights and thresholds were chosen there.", *notes]),
    )


def baseline_table(metrics: Mapping[str, pd.DataFrame], *, title: str) -> Table:
    """One row per baseline: mean ± SD over folds, given for each as `over_folds` of its validation metrics."""
    return text_table(
        ["", *map(numeric, BASELINE_HEADINGS.values())],
        (
            [name, *(format_mean_sd(*values.loc[metric, ["mean", "sd"]]) for metric in BASELINE_HEADINGS)]
            for name, values in metrics.items()
        ),
        title=title,
        caption="Validation. * Optimistic: thresholds were chosen on the same patients.",
    )


def odds_table(odds: pd.DataFrame, note: str = "") -> Table:
    """One row per term: odds ratio, 95 % interval and p, or why it is not estimable; `note` stands below."""
    rows = []
    for row in odds.to_dict("records"):
        if pd.isna(row["odds_ratio"]):
            cells = [f"not estimable: {row['note']}"]
        else:
            cells = [format_odds(row["odds_ratio"], row["low"], row["high"]), format_p(row["p"])]
        rows.append([term_label(row["term"], row["unit"]), *cells])
    return text_table(["", "OR (95 % CI)", numeric("p")], rows, caption=note)


def subgroup_table(subgroups: Sequence[SubgroupAnalysis], *, title: str) -> Table:
    """One row per level; below each grouping, its tests for differences between levels, and its notes."""
    rows: list[list[str | Text]] = []
    for each in subgroups:
        for level in each.levels.to_dict("records"):
            row: dict[Any, Any] = level
            name = f"{variable_name(each.name)}: {row['level']}"
            intervals = (format_interval(row[m], row[f"{m}_low"], row[f"{m}_high"]) for m in REPORTED)
            rows.append([name, f"{row['patients']} ({row['positives']})", *intervals])
        tests = [f"{test} p {format_p(p)}" for test, p in each.corrected.items() if not math.isnan(p)]
        rows.append([literal(f"  {'; '.join([*tests, *each.notes]) or 'nothing to compare'}", "dim")])
    return text_table(
        ["", *map(numeric, ("patients\n(rLVO)", "AUC", "sens.", "spec."))],
        rows,
        title=title,
        caption="95 % intervals; p of equality between levels, corrected for all tests in this table (Holm).",
    )


def paired_table(tests: Mapping[tuple[str, str], AnswerComparison], *, title: str) -> Table:
    """One row per pair of models (a, b) on the same patients: the difference of their AUCs, and who is right alone."""
    rows = []
    for (a, b), found in tests.items():
        alone = f"{found.decisions.only_a} / {found.decisions.only_b}"
        cells = (format_difference(found), format_p(found.auc.p_value), alone, format_p(found.decisions.p_value))
        rows.append([f"{a} − {b}", *cells])
    headings = ("AUC difference", "DeLong p", "right\nalone", "McNemar p")
    return text_table(
        ["", *map(numeric, headings)],
        rows,
        title=title,
        caption="95 % intervals; McNemar's exact test; p values are not corrected for the number of pairs.",
    )
