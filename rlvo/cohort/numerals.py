"""Numbers that can be read in two ways: a separator of thousands or of decimals, a decimal comma or point."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real

import pandas as pd

from rlvo.cohort.cells import DECIMAL_COMMA
from rlvo.cohort.variables import VARIABLES, Variable
from rlvo.errors import Finding

SEPARATED = re.compile(r"\d+[.,]\d+")
THOUSANDS = re.compile(r"[1-9]\d{0,2}[.,]\d{3}")
"""A number that may hold a separator of thousands."""
DECIMAL_POINT = re.compile(r"[+-]?\d+\.\d+")
LARGE = re.compile(r"[1-9]\d{2,}")


def continuous_columns(table: pd.DataFrame, variables: Mapping[str, Variable] = VARIABLES) -> list[str]:
    """The table's columns of numbers that are known."""
    return [name for name, variable in variables.items() if name in table and variable.kind == "continuous"]


def ambiguous_separators(
    table: pd.DataFrame, decimal_comma: bool, variables: Mapping[str, Variable] = VARIABLES
) -> Iterator[Finding]:
    """Find columns with cells such as "1.234" that may be 1234 or 1.234, and say which values they may be.

    Only cells that came as text can be ambiguous. They are not if the column does not allow 1234, or has other
    cells with three decimals; and, where commas separate cells, if it has decimals at all.
    """
    for name in continuous_columns(table, variables):
        column = _Written.of(table[name], decimal_comma)
        if doubtful := column.doubtful(variables[name]):
            row = doubtful[0]
            cell = column.text[row]
            whole, decimal = cell.replace(",", "").replace(".", ""), cell.replace(",", ".")
            patient = f" of patient {table['patient_id'].iloc[row]}" if "patient_id" in table else ""
            more = f", and {len(doubtful) - 1} more like it" if len(doubtful) > 1 else ""
            what = f"'{cell}'{patient}{more}: {whole} or {decimal}, is that a thousands or decimal separator?"
            yield Finding(None, name, what, "Write numbers without thousands separators", cell)


@dataclass(frozen=True)
class _Written:
    """The cells of a column of numbers, by row: those that came as text, and whether others came as numbers."""

    text: dict[int, str]
    numbers: tuple[float, ...]
    decimal_comma: bool

    @classmethod
    def of(cls, cells: pd.Series, decimal_comma: bool) -> "_Written":
        text = {row: cell.strip() for row, cell in enumerate(cells) if isinstance(cell, str)}
        numbers = (float(cell) for cell in cells if isinstance(cell, Real))
        return cls(text, tuple(number for number in numbers if not math.isnan(number)), decimal_comma)

    def doubtful(self, variable: Variable) -> list[int]:
        """The rows whose cells can be read in two ways."""
        separated = {row: cell for row, cell in self.text.items() if SEPARATED.fullmatch(cell)}
        thousands = [row for row, cell in separated.items() if THOUSANDS.fullmatch(cell)]
        whole = [cell for cell in self.text.values() if cell.isdecimal() and cell != "0"]
        large = any(LARGE.fullmatch(cell) for cell in whole) or any(number >= 100 for number in self.numbers)
        if large and len(thousands) == len(separated):
            return thousands
        possible = [row for row in thousands if int(re.sub(r"\D", "", separated[row])) <= variable.high]
        if variable.unit == "points":  # a decimal is refused in any case
            return []
        others = [cell for row, cell in separated.items() if row not in possible]
        is_clear = any(len(re.split("[.,]", cell)[1]) > 2 for cell in others) if self.decimal_comma else bool(others)
        return [] if is_clear or not (self.decimal_comma or whole) else possible


def mixed_decimals(
    text: pd.DataFrame, table: pd.DataFrame, variables: Mapping[str, Variable] = VARIABLES
) -> Iterator[Finding]:
    """Find out whether some numbers have a decimal comma and others a decimal point.

    Args:
        text: the cells as text, missing if they mean "no value"; index: patient id.
        table: the cells as they came, of the same rows.
    """
    columns = [
        pd.DataFrame({"cell": text[name], "column": name, "is_text": [isinstance(cell, str) for cell in table[name]]})
        for name in continuous_columns(text, variables)
    ]
    cells = pd.concat(columns).dropna() if columns else pd.DataFrame(columns=["cell", "column"], dtype="str")
    comma, point = (cells[cells["cell"].str.fullmatch(form)] for form in (DECIMAL_COMMA, DECIMAL_POINT))
    if not len(comma) or not len(point):
        return
    other = point["cell"].iloc[0]
    if not point["is_text"].any():  # the numbers of a workbook: only the text is doubtful
        for patient, cell, column in zip(comma.index, comma["cell"], comma["column"], strict=True):
            what = f"'{cell}' is text with a comma, where other cells are numbers such as {other}"
            yield Finding(str(patient) or None, column, what, "Enter it as a number", cell)
        return
    cell, column = comma["cell"].iloc[0], comma["column"].iloc[0]
    where = f"patient {comma.index[0]}, {column}, and patient {point.index[0]}, {point['column'].iloc[0]}"
    what = f"decimal commas ({cell}) and decimal points ({other}) in one table: {where}"
    yield Finding(None, column, what, "Use one of them throughout, and no thousands separators", cell)
