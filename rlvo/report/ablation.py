"""A report's Models A, B and C: Table 4, what each model gets wrong (Table A2), and the variables that went."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
from rich.table import Table

from rlvo.cohort.labels import variable_label
from rlvo.cohort.variables import PERFUSION
from rlvo.evaluation.answers import AnswerComparison
from rlvo.evaluation.errors_by_cause import CAUSES
from rlvo.report.console import format_interval, format_number, format_p, numeric, text_table
from rlvo.report.exhibit import Exhibit, Standing
from rlvo.report.importance import importance_rows
from rlvo.report.model_tables import ScoredModel, models_exhibit, paired_exhibit

SHOWN = {"balanced_accuracy": "bal.\nacc.", "sensitivity": "sens.", "specificity": "spec.", "f1": "F1"}
"""In a terminal."""
CAPTION = (
    "95 % intervals: AUC by DeLong, shares by Wilson. McNemar: the exact test, and χ² without continuity correction. "
    "No p is corrected for the number of pairs; 'rlvo report' has every interval"
)
CAUSE_NAMES = {"icad": "ICAD", "other": "other causes"}


def model_name(letter: str, predictors: int, training_only: int) -> str:
    """What a model is, by its letter: "Model C: 12 variables, 61 more training patients"."""
    more = f", {training_only} more training patient{'s' if training_only > 1 else ''}" if training_only else ""
    return f"Model {letter}: {predictors} variable{'s' if predictors > 1 else ''}{more}"


def models_table(patients: pd.DataFrame, models: Mapping[str, ScoredModel], *, title: str) -> Table:
    """One row per model, for a terminal. Arguments are those of `ablation_exhibits`."""
    rows = []
    for row in patients.to_dict("records"):
        found = models[str(row["model"])].estimates
        cells = [model_name(str(row["model"]), row["predictors"], row["training_only"])]
        cells.append(format_interval(*found.loc["auc"]))
        rows.append([*cells, *(format_number(float(found["value"][metric])) for metric in SHOWN)])
    return text_table(["", *map(numeric, ("AUC", *SHOWN.values()))], rows, title=title)


def ablation_exhibits(
    patients: pd.DataFrame,
    models: Mapping[str, ScoredModel],
    tests: Mapping[tuple[str, str], AnswerComparison],
    errors: pd.DataFrame,
    *,
    standing: Standing,
    about: str,
    out_of_fold: bool = False,
) -> list[Exhibit]:
    """Table 4, the paired tests, and the error breakdown of Models A, B and C.

    Args:
        patients: as in `AblationResults`.
        models: by letter.
        tests: by letters.
        errors: as from `error_breakdown`, `model` being the letter.
        standing: of the answers.
        about: whose answers they are, in a sentence.
        out_of_fold: whether they are those of the development patients, which the tables' names then say.
    """
    rows: dict[str, dict[Any, Any]] = {str(row["model"]): row for row in patients.to_dict("records")}
    names = {letter: model_name(letter, row["predictors"], row["training_only"]) for letter, row in rows.items()}
    named = [replace(model, name=names[letter], design=_design(rows[letter])) for letter, model in models.items()]
    ending = "-out-of-fold" if out_of_fold else ""
    note = "Each row is the ensemble of the same configurations; B and C were trained anew."
    table = models_exhibit(
        f"table-4{ending}", "Table 4: Models A, B and C", named, standing=standing, about=about, note=note
    )
    paired = paired_exhibit(tests, standing=standing, about=about, name=f"table-4-tests{ending}") if tests else None
    return [
        table,
        *([replace(paired, title="Models A, B and C: paired tests")] if paired else []),
        errors_exhibit(errors, standing=standing, about=about, name=f"table-a2-models{ending}"),
    ]


def errors_exhibit(errors: pd.DataFrame, *, standing: Standing, about: str, name: str) -> Exhibit:
    """One row per model: right and wrong decisions, and how many rLVO of each cause were found."""
    has_causes = all(cause in errors for cause in CAUSES)
    shown = []
    for row in errors.to_dict("records"):
        cells = {"": f"Model {row['model']}", "rLVO found": _share(row["found"], row["missed"])}
        cells["needless alerts"] = _share(row["needless"], row["spared"])
        if has_causes:
            for cause in CAUSES:
                ends = (row[f"{cause}_sensitivity{end}"] for end in ("", "_low", "_high"))
                count = f"{row[f'{cause}_found']}/{row[cause]}"
                cells[f"{CAUSE_NAMES[cause]} found"] = f"{count}: {format_interval(*ends)}" if row[cause] else count
            cells["p, ICAD or other"] = format_p(row["cause_p"])
        shown.append(cells)
    causes = (
        " Causes: etiology, of patients with rLVO; 95 % intervals by Wilson; p: Fisher's exact test."
        if has_causes
        else ""
    )
    title = "Table A2: errors of Models A, B and C"
    return Exhibit(name, title, errors, f"{about}{causes}", standing, pd.DataFrame(shown).fillna(""))


def dropped_exhibit(
    ranking: Sequence[Mapping[str, Any]],
    dropped: Collection[str],
    rule: str,
    perfusion: tuple[float, float] | None = None,
) -> Exhibit:
    """The variables that Models B and C go without, in the ranking they were chosen from."""
    table = pd.DataFrame(list(ranking)) if ranking else pd.DataFrame({"predictor": list(dropped)})
    measures = table.columns.drop("predictor")
    table[measures] = table[measures].astype(float)  # JSON has no NaN
    table["dropped"] = table["predictor"].isin(list(dropped))
    if ranking:
        shown = importance_rows(table.set_index("predictor")).reset_index()
        numbers = shown.select_dtypes("number").columns
        shown[numbers] = shown[numbers].map(lambda value: "" if math.isnan(value) else f"{value:.3g}")
        shown["goes"] = ["yes" if gone else "" for gone in table["dropped"]]
    else:
        shown = pd.DataFrame({"Predictor": table["predictor"].map(variable_label), "goes": "yes"})
    loss = f" All of {PERFUSION} shuffled together: {perfusion[0]:.3g} (SD {perfusion[1]:.3g})." if perfusion else ""
    caption = f"The rule: {rule}. The hold-out has no part in it.{loss}"
    return Exhibit(
        "ablation-variables",
        "The variables that Models B and C go without",
        table,
        caption,
        "optimistic" if ranking else None,
        shown,
    )


def _design(row: Mapping[Any, Any]) -> dict[str, str]:
    return {name: str(row[name]) for name in ("study", "predictors", "development", "training_only")}


def _share(part: int, rest: int) -> str:
    return f"{part}/{part + rest}"
