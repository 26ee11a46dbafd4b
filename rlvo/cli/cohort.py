"""`rlvo validate` and `rlvo baseline`: is the table sound, and what do its clinical variables alone predict?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rlvo.cli.common import JsonOption, console, emit_json
from rlvo.config.study import PAPER_PREDICTORS, FoldsConfig
from rlvo.errors import CohortError

if TYPE_CHECKING:
    from rlvo.training.baseline import BaselineResult

CohortArgument = Annotated[Path, typer.Argument(help="Cohort table: CSV, TSV or XLSX.", metavar="COHORT")]


def validate(
    cohort: CohortArgument,
    predictors: Annotated[
        str | None, typer.Option(help="Comma-separated predictors.", show_default="the paper's 18")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check a cohort table: every finding at once, or who is included, labelled and held out.

    Example: rlvo validate cohort.csv --predictors age,sex,nihss
    """
    from rlvo.cohort.label import rlvo_label
    from rlvo.cohort.reading import read_cohort
    from rlvo.cohort.selection import select
    from rlvo.cohort.splits import make_split
    from rlvo.cohort.variables import source_columns

    names = tuple(name.strip() for name in predictors.split(",")) if predictors else PAPER_PREDICTORS
    try:
        checked = read_cohort(cohort, names, need_volumes=False)
    except CohortError as error:
        if json:
            emit_json({"sound": False, "findings": [vars(finding) for finding in error.findings]})
        raise
    selection = select(checked, names)
    table = checked.subset(selection.included).table
    label = rlvo_label(table)
    split = make_split(label, FoldsConfig())
    summary: dict[str, Any] = {
        "sound": True,
        "patients": len(checked.table),
        "volumes": checked.has_volumes,
        "excluded": {exclusion.rule: list(exclusion.patients) for exclusion in selection.excluded},
        "included": len(table),
        "rlvo": int(label.sum()),
        "split": {"test": len(split.test), "folds": [len(fold) for fold in split.folds]},
        "missing": {name: int(table[name].isna().sum()) for name in source_columns(names) if table[name].isna().any()},
        "ignored_columns": list(checked.ignored),
    }
    if json:
        emit_json(summary)
    else:
        console.print(_summary_table(summary, title=f"{cohort.name}: sound"))


def _summary_table(summary: dict[str, Any], title: str) -> Table:
    shown = Table(title=title, show_header=False, title_justify="left")
    shown.add_row("patients", str(summary["patients"]))
    for rule, patients in summary["excluded"].items():
        shown.add_row(f"− {rule}", str(len(patients)))
    shown.add_row("included", str(summary["included"]), end_section=True)
    shown.add_row("rLVO", f"{summary['rlvo']} ({summary['rlvo'] / summary['included']:.1%})")
    shown.add_row("test set", str(summary["split"]["test"]))
    shown.add_row("validation folds", ", ".join(map(str, summary["split"]["folds"])), end_section=True)
    shown.add_row("volumes", "NCCT, CTA" if summary["volumes"] else "none: a tabular cohort")
    shown.add_row("missing values", _listed(f"{name} {count}" for name, count in summary["missing"].items()))
    shown.add_row("columns not used", _listed(summary["ignored_columns"]))
    return shown


def _listed(items: Any) -> str:
    return ", ".join(items) or "none"


def baseline(cohort: CohortArgument, json: JsonOption = False) -> None:
    """Logistic regressions on NIHSS, ASPECTS, both, and all clinical variables: what networks have to beat.

    Mean ± SD over the validation folds; test patients stay untouched.

    Example: rlvo baseline cohort.csv
    """
    from rlvo.cohort.label import rlvo_label
    from rlvo.cohort.reading import read_cohort
    from rlvo.cohort.selection import select
    from rlvo.cohort.splits import make_split
    from rlvo.training.baseline import clinical_baseline

    checked = read_cohort(cohort, need_volumes=False)
    table = checked.subset(select(checked, PAPER_PREDICTORS).included).table
    label = rlvo_label(table)
    split = make_split(label, FoldsConfig())
    sets: dict[str, tuple[str, ...]] = {"NIHSS": ("nihss",)}
    if "aspects" in table:
        sets |= {"ASPECTS": ("aspects",), "NIHSS + ASPECTS": ("nihss", "aspects")}
    sets["all clinical"] = PAPER_PREDICTORS
    results = {name: clinical_baseline(table, label, split, predictors) for name, predictors in sets.items()}
    metrics = {name: _fold_metrics(result) for name, result in results.items()}
    if json:
        emit_json({"patients": len(table), "rlvo": int(label.sum()), "validation": metrics})
        return
    console.print(_baseline_table(metrics, title=f"{cohort.name}: validation, mean ± SD over {len(split.folds)} folds"))
    console.print("* optimistic: thresholds are chosen on the same patients. Only the test set gives the headline.")
    if "aspects" not in table:
        console.print("no column aspects: its baselines are left out")


def _fold_metrics(result: BaselineResult) -> dict[str, dict[str, float]]:
    from rlvo.evaluation.metrics import METRICS

    folds = result.validation_metrics()
    return {name: {"mean": float(folds[name].mean()), "sd": float(folds[name].std())} for name in METRICS}


def _baseline_table(metrics: dict[str, dict[str, dict[str, float]]], title: str) -> Table:
    headings = {
        "auc": "AUC",
        "balanced_accuracy": "bal. acc.*",
        "f1": "F1*",
        "sensitivity": "sens.*",
        "specificity": "spec.*",
    }
    shown = Table("predictors", *headings.values(), title=title, title_justify="left")
    for name, values in metrics.items():
        shown.add_row(name, *(f"{values[key]['mean']:.2f}±{values[key]['sd']:.2f}" for key in headings))
    return shown
