"""A sound table, and the ways in which hospital tables go wrong: each writes one to refuse, and what must be said."""

import datetime
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest

from rlvo.cohort.reading import read_cohort
from rlvo.errors import CohortError, RlvoError

Rows = pd.DataFrame
BINARIES = ("hypertension", "dyslipidemia", "diabetes", "smoking", "atrial_fibrillation", "ivt", "unwitnessed_onset")
TMAX = ("tmax_gt4_ml", "tmax_gt6_ml", "tmax_gt10_ml")


def sound_rows() -> Rows:
    """40 patients, every predictor and outcome, as text; 12 rLVO."""
    random = np.random.default_rng(3)
    n = 40
    tmax6 = random.uniform(20, 200, n).round(1)
    columns: dict[str, object] = {
        "patient_id": [f"{i:03d}" for i in range(n)],
        "age": random.integers(40, 95, n),
        "sex": random.choice(["F", "M"], n),
        **{name: random.integers(0, 2, n) for name in BINARIES},
        "nihss": random.integers(0, 30, n),
        "occlusion_side": random.choice(["left", "right"], n),
        "occlusion_site": random.choice(["TICA", "M1", "M2"], n),
        "cbf_lt30_ml": random.uniform(0, 40, n).round(1),
        "tmax_gt4_ml": (tmax6 * 2).round(1),
        "tmax_gt6_ml": tmax6,
        "tmax_gt10_ml": (tmax6 / 4).round(1),
        "aspects": random.integers(5, 11, n),
        "final_stenosis_pct": [80 if i % 10 < 2 else 20 for i in range(n)],
        "etici": ["2a" if i % 10 == 2 else "2c" for i in range(n)],
        "rescue_treatment": [int(i % 10 == 1) for i in range(n)],
    }
    return pd.DataFrame(columns).astype(str)


def full_rows() -> Rows:
    """The sound rows with the optional columns, but without volumes."""
    return sound_rows().assign(etiology="other", admission_date="2021-05-04", rlvo="")


@dataclass(frozen=True)
class Malformed:
    """`write(folder, rows)` writes a sound table's rows malformed; `says` is a pattern the error must match."""

    write: Callable[[Path, Rows], Path]
    says: str


def check_refused(malformed: Malformed, folder: Path) -> None:
    """Check that the table is refused with what is wrong and where, in one line per finding."""
    path = malformed.write(folder, full_rows())
    with pytest.raises(RlvoError) as caught:
        read_cohort(path, need_volumes=False)
    error, told = caught.value, str(caught.value)
    assert error.exit_code == 2
    assert re.search(malformed.says, told), told
    assert str(path) in told, told
    findings = error.findings if isinstance(error, CohortError) else ()
    assert all(finding.what for finding in findings)
    assert told.count("\n") == len(findings), told


def csv(rows: Rows, sep: str = ",") -> str:
    return rows.to_csv(index=False, sep=sep)


def written(folder: Path, content: str | bytes, name: str = "cohort.csv") -> Path:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def file(content: Callable[[Rows], str | bytes], says: str, name: str = "cohort.csv") -> Malformed:
    """The file holds what is made of the rows."""
    return Malformed(lambda folder, rows: written(folder, content(rows), name), says)


def text(edit: Callable[[str], str], says: str) -> Malformed:
    """The text of the CSV file is changed."""
    return file(lambda rows: edit(csv(rows)), says)


def edited(edit: Callable[[Rows], Rows], says: str) -> Malformed:
    """The rows are changed."""
    return file(lambda rows: csv(edit(rows)), says)


def cell(column: str, value: str, says: str) -> Malformed:
    """One patient's cell is changed."""
    return edited(lambda rows: rows.assign(**{column: [value, *rows[column][1:]]}), f"{column}: .*{says}")


def ids(says: str, *first: str) -> Malformed:
    """The first patients' ids are changed."""
    return edited(lambda rows: rows.assign(patient_id=[*first, *rows["patient_id"][len(first) :]]), says)


def extra_row(says: str, **values: str) -> Malformed:
    """There is one more row."""
    return edited(lambda rows: pd.concat([rows, pd.DataFrame([values])]).fillna(""), says)


def columns(says: str, sep: str = ",", **cells: object) -> Malformed:
    """Columns are replaced or added; where semicolons separate cells, as in Europe, a comma may be a decimal comma."""
    return file(lambda rows: csv(rows.assign(**cells), sep), says)  # type: ignore[arg-type]


def renamed(says: str, **names: str) -> Malformed:
    """Columns have other names."""
    return edited(lambda rows: rows.rename(columns=names), says)


def scaled(columns: tuple[str, ...], factor: float, says: str) -> Malformed:
    """Columns are in another unit."""
    return edited(
        lambda rows: rows.assign(**{c: (rows[c].astype(float) * factor).round(6).astype(str) for c in columns}), says
    )


def workbook(edit: Callable[[openpyxl.Workbook], object], says: str) -> Malformed:
    """The XLSX file is changed; row 1 holds the names, column A the ids."""

    def write(folder: Path, rows: Rows) -> Path:
        path = folder / "cohort.xlsx"
        numbers = rows.drop(columns="patient_id").apply(pd.to_numeric, errors="coerce").dropna(axis=1)
        rows.assign(**numbers).to_excel(path, index=False)
        book = openpyxl.load_workbook(path)
        edit(book)
        book.save(path)
        return path

    return Malformed(write, says)


def set_cell(column: str, value: object, number_format: str | None = None) -> Callable[[openpyxl.Workbook], None]:
    def edit(book: openpyxl.Workbook) -> None:
        at = next(each.column for each in book.active[1] if each.value == column)
        changed = book.active.cell(2, at, value)
        changed.number_format = number_format or changed.number_format

    return edit


def add_title(book: openpyxl.Workbook) -> None:
    book.active.insert_rows(1)
    book.active["A1"] = "Stroke registry"


def empty_workbook() -> bytes:
    stream = io.BytesIO()
    openpyxl.Workbook().save(stream)
    return stream.getvalue()


def ole(stream: str) -> bytes:
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + stream.encode("utf-16-le") + bytes(512)


CELLS = {
    "a number above its range": cell("age", "121", "'121' is not allowed. Allowed: 0 to 120 years"),
    "a number below its range": cell("cbf_lt30_ml", "-3.5", "0 to 2000 mL"),
    "a year of birth": cell("age", "1951", "0 to 120 years"),
    "an Excel date number": cell("age", "45123", "Excel's number for 2023-07-16"),
    "a date in a number column": cell("nihss", "2023-05-04", "looks like a date"),
    "a value that Excel made a date": cell("aspects", "10-Aug", "looks like a date"),
    "a code for missing": cell("nihss", "99", "missing value, leave the cell empty"),
    "a code for missing within the range": cell("tmax_gt4_ml", "999", "missing value, leave the cell empty"),
    "a negative code for missing": cell("nihss", "-9", "missing value, leave the cell empty"),
    "a percent sign": cell("final_stenosis_pct", "55%", "without the percent sign"),
    "a percentage for a volume": cell("cbf_lt30_ml", "30 %", "without the percent sign, in the unit shown"),
    "a unit in the cell": cell("tmax_gt6_ml", "120 mL", "only the number"),
    "words for years": cell("age", "70 años", "only the number"),
    "thousands separators": cell("tmax_gt4_ml", "1,234.5", "without thousands separators"),
    "thousands separated by a blank": cell("tmax_gt4_ml", "1 234", "without thousands separators"),
    "thousands separated by an apostrophe": cell("tmax_gt4_ml", "1'234", "without thousands separators"),
    "a decimal comma where commas separate": cell("tmax_gt4_ml", "120,5", "Write a decimal point"),
    "a bound": cell("cbf_lt30_ml", "<5", "Write a single number"),
    "a range": cell("nihss", "10-12", "Write a single number"),
    "infinity": cell("tmax_gt6_ml", "inf", "not allowed"),
    "more than a double holds": cell("tmax_gt6_ml", "1e999", "not allowed"),
    "other digits": cell("age", "７０", "not allowed"),
    "half a point": cell("nihss", "14.37", "whole points"),
    "half an ASPECTS": cell("aspects", "8.5", "whole points"),
    "a formula's error": cell("tmax_gt10_ml", "#DIV/0!", "formula error"),
    "a word for unknown": cell("smoking", "unknown", "unknown, leave the cell empty"),
    "a question mark": cell("nihss", "?", "unknown, leave the cell empty"),
    "yes": cell("hypertension", "yes", "1 for yes"),
    "a tick": cell("ivt", "x", "1 for yes"),
    "binaries coded 1 and 2": cell("diabetes", "2", "Allowed: 0 or 1"),
    "an imputed binary": cell("smoking", "0.37", "Allowed: 0 or 1"),
    "sex in words": cell("sex", "female", "M is male, F is female"),
    "sex in Spanish, where M is a woman": cell("sex", "H", "M is male, F is female"),
    "sex in digits": cell("sex", "1", "Allowed: M, F"),
    "a side in another language": cell("occlusion_side", "izquierda", "left or right"),
    "both sides": cell("occlusion_side", "bilateral", "left or right"),
    "a site that is not studied": cell("occlusion_site", "basilar", "Allowed: TICA, M1, M2"),
    "an eTICI grade without its letter": cell("etici", "2", "Allowed: 0, 1, 2a"),
    "an eTICI grade in Roman numerals": cell("etici", "IIb", "only the grade"),
    "an eTICI grade with its name": cell("etici", "TICI 2b", "only the grade"),
    "an etiology in words": cell("etiology", "cardioembolic", "Allowed: icad, other"),
    "a date day first": cell("admission_date", "04/05/2021", "year, month and day in this order"),
    "a date with a month's name": cell("admission_date", "4-May-2021", "year, month and day in this order"),
    "a date as Excel's number": cell("admission_date", "44320", "Excel's number for 2021-05-04"),
    "a date that does not exist": cell("admission_date", "2021-02-30", "YYYY-MM-DD"),
    "a date to come": cell("admission_date", "2999-01-01", "not in the future"),
    "a date before thrombectomy": cell("admission_date", "1900-01-01", "not before 1990"),
    "a label in words": cell("rlvo", "maybe", "Allowed: 0 or 1"),
}
CELLS |= {
    "sex as 1": cell("sex", "1", "Write M or F"),
    "sex as 2": cell("sex", "2", "Write M or F"),
    "a side as 2": cell("occlusion_side", "2", "Write left or right"),
    "a binary as 2": cell("diabetes", "2", "Write 1 for yes and 0 for no"),
    "a site in other words": cell("occlusion_site", "ICA-T", "Write TICA"),
    "yes in French": cell("ivt", "VRAI", "Write 1"),
    "a ticked box": cell("ivt", "Checked", "Write 1"),
    "a missing value of SPSS": cell("age", "#NULL!", "SPSS writes it for a missing value"),
    "a missing value of Stata": cell("nihss", ".a", "unknown, leave the cell empty"),
    "a missing value with points": cell("nihss", "N.A.", "unknown, leave the cell empty"),
    "a lookup that failed": cell("age", "#N/A", "formula error"),
    "a person who is unknown": edited(
        lambda rows: rows.assign(person=["Unknown"] * 2 + [""] * 38), "person: 'Unknown'"
    ),
    "a date with strokes": cell("admission_date", "2021/5/4", "Write 2021-05-04"),
}
IDS = {
    "an id made a date": ids("patient 3-May, .*is a date, which a spreadsheet makes", "3-May"),
    "an id made a date and a time": ids("is a date, which a spreadsheet makes", "2024-05-03 00:00:00"),
    "an id that is an error": ids("patient #REF!, .*spreadsheet's error", "#REF!"),
    "an id with an apostrophe": ids("begins with a mark of spreadsheets", "'007"),
    "ids of 18 digits, rounded": ids("end in zeros: a spreadsheet rounded", "123456789012345000", "123456789012346000"),
    "no id": ids("row 1 has no id", ""),
    "one id twice": ids("patient A1, patient_id: occurs more than once", "A1", "A1"),
    "an id twice but for blanks": ids("patient A1, patient_id: occurs more than once", "A1", "A1  "),
    "ids that differ by case": ids("'p1' and 'P1' differ only in case", "P1", "p1"),
    "ids that differ by leading zeros": ids("'P7' and 'P007' differ only in .*leading zeros", "P007", "P7"),
    "ids that differ by a blank": ids("'P1' and 'P 1' differ only in case, spaces", "P 1", "P1"),
    "ids read as numbers": ids("all ids end in .0.*read as numbers", *(f"{i}.0" for i in range(40))),
    "ids rounded by Excel": ids("rounded by a spreadsheet", "1.23E+11"),
    "an id over two lines": ids("line break or control character", "A\n1"),
    "a totals row": extra_row("patient Total, .*not a patient", patient_id="Total", age="2890"),
    "a row of means": extra_row("patient Mean, .*not a patient", patient_id="Mean", age="71", sex="F"),
    "a note below": extra_row(r"patient \* reviewed by AB.*not a patient", patient_id="* reviewed by AB"),
    "an id and nothing else": extra_row("patient A99: the row holds an id but no other", patient_id="A99"),
    "the header once more": extra_row("patient_id.*header", **{name: name for name in full_rows()}),
    "a row of units": extra_row("row 41 has no id", patient_id="", age="years", nihss="points"),
    "centers that differ by case": columns(
        "center: 'vall' and 'Vall' differ only in case", center=["Vall", "vall"] * 20
    ),
}
COLUMNS = {
    "no ids at all": edited(lambda rows: rows.drop(columns="patient_id"), "patient_id: the column is missing"),
    "ids under another name": renamed("Is it the column 'nhc'", patient_id="NHC"),
    "a predictor missing": edited(lambda rows: rows.drop(columns="diabetes"), "diabetes: the column is missing"),
    "a predictor under another name": renamed(r"age: the column is missing. Is it the column 'edad'\?", age="Edad"),
    "a predictor with its unit": renamed("nihss: the column is missing", nihss="NIHSS (points)"),
    "an exclusion misspelt": columns("dsa_oclusion: is not used, but .* close to dsa_occlusion", dsa_oclusion="1"),
    "an outcome missing": edited(lambda rows: rows.drop(columns=["rlvo", "etici"]), "etici: the column is missing"),
    "a predictor for nobody": columns("smoking: no patient has a readable value", smoking=""),
    "a column twice": text(lambda table: table.replace("nihss", "Age", 1), "age: more than one column has this name"),
    "a column without a name": text(lambda table: table.replace("smoking", "", 1), "column 7: has cells but no name"),
    "only the NCCT": columns("cta: the column is missing", ncct=""),
    "a scan that is not there": columns(
        "patient 000, cta: no such file", ncct="", cta=["scans/none.nii.gz", *[""] * 39]
    ),
    "one scan for two patients": columns(
        "ncct: is also the file of patient 000", ncct=["cohort.csv"] * 2 + [""] * 38, cta=""
    ),
}
VALUES = {
    "99 for missing": edited(
        lambda rows: rows.assign(cbf_lt30_ml=["99"] * 2 + [*rows["cbf_lt30_ml"][2:]]),
        "cbf_lt30_ml: 99 may stand for a missing value.*patient 000, 001.*write .99",
    ),
    "777 for missing": edited(
        lambda rows: rows.assign(cbf_lt30_ml=["777"] * 2 + [*rows["cbf_lt30_ml"][2:]]),
        "cbf_lt30_ml: 777 may stand for a missing value.*patient 000, 001.*write .777",
    ),
    "998 for missing": edited(
        lambda rows: rows.assign(cbf_lt30_ml=["998"] * 2 + [*rows["cbf_lt30_ml"][2:]]),
        "cbf_lt30_ml: 998 may stand for a missing value.*patient 000, 001.*write .998",
    ),
    "888 for missing": edited(
        lambda rows: rows.assign(cbf_lt30_ml=["888"] * 2 + [*rows["cbf_lt30_ml"][2:]]),
        "cbf_lt30_ml: 888 may stand for a missing value.*patient 000, 001.*write .888",
    ),
    "thousands among whole numbers below 100": columns(
        "tmax_gt4_ml: '1.050' of patient 000: 1050 or 1.050", ";", tmax_gt4_ml=["1.050", *["85"] * 39]
    ),
    "thousands with a comma among whole numbers below 100": columns(
        "tmax_gt4_ml: '1,234' of patient 000: 1234 or 1.234", ";", tmax_gt4_ml=["1,234", *["85"] * 39]
    ),
    "thousands among decimals": columns("'1.050' of patient 000", ";", tmax_gt4_ml=["1.050", *["12.5"] * 39]),
    "a part in litres": columns(
        "tmax_gt4_ml: 0.07 .*0.07 mL, or 70 mL as litres", tmax_gt4_ml=[*["0.07", "0.12"] * 10, *["40", "190.5"] * 10]
    ),
    "one value in litres": columns("0.07 mL, or 70 mL as litres", tmax_gt4_ml=["0.07", *["40.5", "190"] * 19, "80"]),
    "a part as fractions": columns(
        "final_stenosis_pct: 0.8 .*80 % as a fraction", final_stenosis_pct=[*["0.8", "0.3"] * 10, *["20", "90"] * 10]
    ),
    "Tmax columns swapped": renamed("is more than tmax_gt4_ml", **dict(zip(TMAX, TMAX[::-1], strict=True))),
    "Tmax > 10 s beyond Tmax > 4 s, the one between missing": edited(
        lambda rows: rows.assign(tmax_gt6_ml=["", *rows["tmax_gt6_ml"][1:]], tmax_gt10_ml="1999"),
        "patient 000, tmax_gt10_ml: 1999 mL is more than tmax_gt4_ml",
    ),
    "volumes in litres": scaled(TMAX, 0.001, "tmax_gt4_ml: no value is above 1: .* in a unit other than mL"),
    "volumes in cubic millimetres": scaled(TMAX, 1000, "tmax_gt6_ml: .*0 to 2000 mL"),
    "stenosis as a fraction": scaled(("final_stenosis_pct",), 0.01, "final_stenosis_pct: no value is above 1"),
    "ages scaled already": scaled(("age",), 0.01, "age: no value is above 1: .*already scaled"),
    "points and commas mixed": columns(
        r"decimal commas \(70,5\) and decimal points \(\d+\.\d\)", ";", age=["70,5", "70.5", *["70"] * 38]
    ),
    "thousands that look like decimals": columns(
        "'1.234' .*thousands or decimal separator", ";", tmax_gt4_ml=["1.234", "1100", *["950"] * 38]
    ),
    "thousands that look like decimal commas": columns(
        "'1,234' .*thousands or decimal separator", ";", tmax_gt4_ml=["1,234", *["950"] * 39]
    ),
    "a label against its outcomes": columns("patient 000, rlvo: 0 contradicts the outcomes", rlvo=["0", *[""] * 39]),
    "outcomes that settle nothing": columns(
        "patient 001, rlvo: no label", rescue_treatment=["1", "", *["0"] * 38], final_stenosis_pct="", etici="3"
    ),
}
FILES = {
    "no file": Malformed(lambda folder, rows: folder / "none.csv", "no such cohort table"),
    "a folder": Malformed(lambda folder, rows: folder, "no such cohort table"),
    "an empty file": text(lambda table: "", "holds no patients"),
    "names and nobody": text(lambda table: table.splitlines()[0], "holds no patients"),
    "rows of different lengths": text(
        lambda table: table.replace("\n001,", "\n001,,", 1), "line 3: 25 cells, but the header has 24"
    ),
    "a delimiter in a cell": text(lambda table: table.replace(",M1,", ",M1, distal,", 1), "25 cells, .* Quote cells"),
    "a footer": text(lambda table: f"{table}Exported 2024-01-31\n", "line 42: 1 cells, .*remove notes"),
    "a title above the names": text(lambda table: f"Stroke registry\n{table}", "column names are in line 2"),
    "two lines of names": text(
        lambda table: f"Demography{',' * table.splitlines()[0].count(',')}\n{table}", "column names are in line 2"
    ),
    "a quote that does not end": text(lambda table: table.replace("\n001,", '\n"001,', 1), "not readable as a delim"),
    "binary zeros": text(lambda table: table.replace("left", "le\0t", 1), "binary data"),
    "UTF-16 without its mark": file(lambda rows: csv(rows).encode("utf-16-le"), "binary data"),
    "UTF-16 cut short": file(
        lambda rows: csv(rows).encode("utf-16")[:-1], "starts with a UTF-16 mark but is not valid UTF-16"
    ),
    "UTF-16 that holds a word": file(lambda rows: b"\xff\xfep\x00a\x00", "holds no patients"),
    "a web page named CSV": text(lambda table: f"<html><table><tr><td>{table}", "a web page"),
    "a PDF named CSV": text(lambda table: f"%PDF-1.7 {table}", "a PDF file"),
    "an XLSX named CSV": file(lambda rows: empty_workbook(), "zipped file such as XLSX"),
    "a CSV named XLSX": file(csv, "not a readable XLSX file", "cohort.xlsx"),
    "an XLS file": file(csv, "'.xls' is not a table format", "cohort.xls"),
    "an XLS named XLSX": file(lambda rows: ole("Workbook"), r"old Excel file \(XLS\) named XLSX", "cohort.xlsx"),
    "an XLSX with a password": file(lambda rows: ole("EncryptedPackage"), "protected by a password", "cohort.xlsx"),
    "an XLSX cut short": file(lambda rows: empty_workbook()[:-100], "not a readable XLSX", "cohort.xlsx"),
}
WORKBOOKS = {
    "merged cells": workbook(lambda book: book.active.merge_cells("B2:B4"), "cells B2:B4: are merged"),
    "a formula without a value": workbook(set_cell("tmax_gt10_ml", "=1+1"), "cell Q2: holds a formula without a value"),
    "a date cell in a number column": workbook(
        set_cell("nihss", datetime.datetime(2023, 5, 4)), "patient 000, nihss: '2023-05-04 00:00:00' .*like a date"
    ),
    "a percentage cell": workbook(set_cell("final_stenosis_pct", 0.55, "0%"), "'55%' is not allowed"),
    "two sheets of patients": workbook(
        lambda book: book.copy_worksheet(book.active), r"which sheet is the cohort \(Sheet1, Sheet1 Copy\)"
    ),
    "a title above the table": workbook(add_title, "column names are in line 2"),
    "a cell far away": workbook(lambda book: book.active.cell(1_000_000, 16_000, "x"), "extends to cell WQJ1000000"),
    "a note beside the table": workbook(lambda book: book.active.cell(3, 30, "ask AB"), "column 30: has cells but no"),
}
