"""Table 1: the patients of development and hold-out, and those with rLVO among them."""

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from rlvo.cohort.labels import level_label, variable_label
from rlvo.cohort.variables import DERIVED, RATIOS, VARIABLES, Variable, known_variables
from rlvo.config.predictors import OwnPredictor
from rlvo.report.console import format_p, numeric, text_table

HEADINGS = {
    "variable": "",
    "missing": "Missing",
    "development": "Development",
    "development_rlvo": "Development: rLVO",
    "test": "Hold-out",
    "test_rlvo": "Hold-out: rLVO",
    "p": "p",
    "smd": "SMD",
}
CAPTION = (
    "Median (quartiles) or number (%) of the patients in whom it is known. p: rLVO against the others in development "
    "(Kruskal–Wallis; χ², or Fisher's exact test where counts are small), not adjusted for multiple tests. SMD: "
    "absolute standardised mean difference of hold-out and development; above 0.1 it is usually called an imbalance."
)
ABSENT = "–"


def table_one(
    table: pd.DataFrame, label: pd.Series, test: Collection[str], own: Sequence[OwnPredictor] = ()
) -> pd.DataFrame:
    """Make Table 1 as text, one row per variable (or per level, if there are more than two), without patients' ids.

    Args:
        table: the included patients of a checked cohort.
        label: 0 or 1 per patient, indexed likewise.
        test: patients of the hold-out.
        own: the declarations of predictors that rlvo does not know.

    Returns:
        The columns of `HEADINGS`; the first row counts the patients. `p` and `smd` are given in a variable's first row
        only, as "n.e." if they are not estimable.
    """
    variables = known_variables(own)
    shown = _shown(table, variables).reset_index(drop=True)
    is_test = table.index.isin(list(test))
    rlvo = (label.loc[table.index] == 1).to_numpy()
    known = [name for name in shown.columns.astype(str) if shown[name].notna().any()]
    part, outcome = np.where(is_test, "test", "development"), np.where(rlvo, "rlvo", "other")
    with warnings.catch_warnings():  # about future versions of pandas, and about tests on few patients
        warnings.simplefilter("ignore")
        both = _tableone(shown[known], part, variables, smd=True)
        of_development = _tableone(shown[known][~is_test], outcome[~is_test], variables, pval=True)
        of_test = _tableone(shown[known][is_test & rlvo], outcome[is_test & rlvo], variables)
    groups = {
        "development": (~is_test, _cells(both, "development")),
        "development_rlvo": (~is_test & rlvo, _cells(of_development, "rlvo")),
        "test": (is_test, _cells(both, "test")),
        "test_rlvo": (is_test & rlvo, _cells(of_test, "rlvo")),
    }
    rows = [{"variable": "Patients", **{group: str(chosen.sum()) for group, (chosen, _) in groups.items()}}]
    for name in shown.columns.astype(str):
        for number, level in enumerate(_levels(name, variables)):
            row = {group: cells.get((name, level), ABSENT) for group, (_, cells) in groups.items()}
            row["variable"] = level_label(name, level) if level not in ("", "1") else variable_label(name, variables)
            if number == 0:
                row["missing"] = str(shown[name].isna().sum())
                row["p"] = format_p(of_development.htest_table["P-Value"].get(name, np.nan))
                row["smd"] = _difference(both.smd_table.iloc[:, 0].get(name, np.nan))
            rows.append(row)
    return pd.DataFrame(rows, columns=list(HEADINGS)).fillna("")


def table_one_table(characteristics: pd.DataFrame) -> Table:
    """Table 1 for a terminal, without missing values and p."""
    rows = characteristics[["variable", "development", "development_rlvo", "test", "test_rlvo", "smd"]].to_numpy(str)
    headings = ("development", "rLVO", "hold-out", "rLVO", "SMD")
    return text_table(["", *map(numeric, headings)], rows.tolist(), title="Table 1")


def _shown(table: pd.DataFrame, variables: Mapping[str, Variable]) -> pd.DataFrame:
    """The table's predictors and scores, with the derived ones; categorical values as text."""
    shown = predictors_and_scores(table, variables).copy()
    for derived in DERIVED:
        if set(RATIOS[derived]) <= set(table):
            numerator, denominator = (table[column] for column in RATIOS[derived])
            without = 0.0 if derived == "hir" else np.nan  # as in the encoder: no volume, none of it severe
            shown[derived] = (numerator / denominator).mask(denominator == 0, without)
    for name in shown.columns.astype(str):
        if _levels(name, variables) == ("1",):
            shown[name] = shown[name].map({0.0: "0", 1.0: "1"})
    return shown


def predictors_and_scores(table: pd.DataFrame, variables: Mapping[str, Variable]) -> pd.DataFrame:
    """The columns of a checked table that are predictors, or the score of baselines."""
    return table.filter([name for name, each in variables.items() if each.role in ("predictor", "score")])


def _levels(name: str, variables: Mapping[str, Variable]) -> tuple[str, ...]:
    """The rows of a variable: all its levels, the second of two, or a single unnamed one."""
    if name in DERIVED or variables[name].kind == "continuous":
        return ("",)
    levels = variables[name].levels
    return levels[1:] or ("1",) if variables[name].kind == "binary" else levels


def _decimals(variable: Variable | None) -> int:
    """None for what rlvo knows, two for what is derived; a hundredth of the range of a study's own shows."""
    if variable is None:
        return 2
    return 0 if variable.name in VARIABLES else max(0, 2 - math.floor(math.log10(variable.high - variable.low)))


def _tableone(data: pd.DataFrame, group: np.ndarray, variables: Mapping[str, Variable], **options: bool) -> Any:
    """A TableOne of the patients, by `group` [N]."""
    from tableone import TableOne

    names = list(data.columns.astype(str))
    continuous = [name for name in names if _levels(name, variables) == ("",)]
    categorical = [name for name in names if name not in continuous]
    # It walks over texts one by one, which takes ten times as long on Arrow strings.
    grouped = data.astype(dict.fromkeys(categorical, object)).assign(group=group.astype(object))
    return TableOne(
        grouped,
        columns=names,
        categorical=categorical,
        continuous=continuous,
        nonnormal=continuous,
        groupby="group",
        overall=False,
        missing=False,
        include_null=False,
        label_suffix=False,
        decimals={name: _decimals(variables.get(name)) if name in continuous else 1 for name in names},
        **options,
    )


def _cells(found: Any, group: str) -> dict[tuple[str, str], str]:
    """The cells of a group's column, by variable and level."""
    column = found.tableone.droplevel(0, axis=1)[group]
    return {key: str(cell).replace(" [", " (").replace(",", "–").replace("]", ")") for key, cell in column.items()}


def _difference(smd: float) -> str:
    return f"{abs(smd):.2f}" if np.isfinite(smd) else "n.e."
