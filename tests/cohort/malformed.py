"""A sound table, and the ways in which hospital tables go wrong: each writes one to refuse, and what must be said."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd

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


@dataclass(frozen=True)
class Malformed:
    """`write(folder, rows)` writes a sound table's rows malformed; `says` is a pattern the error must match."""

    write: Callable[[Path, Rows], Path]
    says: str


def csv(rows: Rows, **options: object) -> str:
    return rows.to_csv(index=False, **options)  # type: ignore[call-overload, no-any-return]


def written(folder: Path, content: str | bytes, name: str = "cohort.csv") -> Path:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


def cell(column: str, value: str, says: str) -> Malformed:
    """One patient's cell holds something else."""
    return edited(lambda rows: rows.assign(**{column: [value, *rows[column][1:]]}), f"{column}: .*{says}")


def edited(edit: Callable[[Rows], Rows], says: str) -> Malformed:
    """The rows are others."""
    return Malformed(lambda folder, rows: written(folder, csv(edit(rows))), says)


def text(edit: Callable[[str], str], says: str) -> Malformed:
    """The text of the CSV file is another."""
    return Malformed(lambda folder, rows: written(folder, edit(csv(rows))), says)


def semicolons(edit: Callable[[Rows], Rows], says: str) -> Malformed:
    """As European spreadsheets export: semicolons between cells, where the comma may be a decimal comma."""
    return Malformed(lambda folder, rows: written(folder, csv(edit(rows), sep=";")), says)


def workbook(edit: Callable[[openpyxl.Workbook], None], says: str) -> Malformed:
    """The XLSX file is another; row 1 holds the names, column A the ids."""

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


def with_ids(*ids: str) -> Callable[[Rows], Rows]:
    return lambda rows: rows.assign(patient_id=[*ids, *rows["patient_id"][len(ids) :]])


def with_row(**values: str) -> Callable[[Rows], Rows]:
    return lambda rows: pd.concat([rows, pd.DataFrame([values])]).fillna("")


def scaled(columns: tuple[str, ...], factor: float) -> Callable[[Rows], Rows]:
    return lambda rows: rows.assign(**{c: (rows[c].astype(float) * factor).round(6).astype(str) for c in columns})


def bytes_of(book: openpyxl.Workbook) -> bytes:
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def ole(*, encrypted: bool) -> bytes:
    stream = "EncryptedPackage" if encrypted else "Workbook"
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + stream.encode("utf-16-le") + bytes(512)


def two_cohorts(book: openpyxl.Workbook) -> None:
    book.copy_worksheet(book.active)


def titled(book: openpyxl.Workbook) -> None:
    book.active.insert_rows(1)
    book.active["A1"] = "Stroke registry"


def far_cell(book: openpyxl.Workbook) -> None:
    book.active.cell(1_000_000, 16_000, "x")


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
    "a percentage for a volume": cell("cbf_lt30_ml", "30 %", "without the percent sign, in the unit named"),
    "a unit in the cell": cell("tmax_gt6_ml", "120 mL", "the number alone"),
    "words for years": cell("age", "70 años", "the number alone"),
    "thousands separators": cell("tmax_gt4_ml", "1,234.5", "without thousands separators"),
    "thousands separated by a blank": cell("tmax_gt4_ml", "1 234", "without thousands separators"),
    "thousands separated by an apostrophe": cell("tmax_gt4_ml", "1'234", "without thousands separators"),
    "a decimal comma where commas separate": cell("tmax_gt4_ml", "120,5", "Write a decimal point"),
    "a bound": cell("cbf_lt30_ml", "<5", "Write one number"),
    "a range": cell("nihss", "10-12", "Write one number"),
    "infinity": cell("tmax_gt6_ml", "inf", "not allowed"),
    "more than a double holds": cell("tmax_gt6_ml", "1e999", "not allowed"),
    "other digits": cell("age", "７０", "not allowed"),
    "half a point": cell("nihss", "14.37", "whole points"),
    "half an ASPECTS": cell("aspects", "8.5", "whole points"),
    "a formula's error": cell("tmax_gt10_ml", "#DIV/0!", "error of a formula"),
    "a word for unknown": cell("smoking", "unknown", "not known, leave the cell empty"),
    "a question mark": cell("nihss", "?", "not known, leave the cell empty"),
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
    "an eTICI grade in Roman numerals": cell("etici", "IIb", "the grade alone"),
    "an eTICI grade with its name": cell("etici", "TICI 2b", "the grade alone"),
    "an etiology in words": cell("etiology", "cardioembolic", "Allowed: icad, other"),
    "a date day first": cell("admission_date", "04/05/2021", "year, month and day in this order"),
    "a date with a month's name": cell("admission_date", "4-May-2021", "year, month and day in this order"),
    "a date as Excel's number": cell("admission_date", "44320", "Excel's number for 2021-05-04"),
    "a date that does not exist": cell("admission_date", "2021-02-30", "YYYY-MM-DD"),
    "a date to come": cell("admission_date", "2999-01-01", "not in the future"),
    "a date before thrombectomy": cell("admission_date", "1900-01-01", "not before 1990"),
    "a label in words": cell("rlvo", "maybe", "Allowed: 0 or 1"),
    "a scan that is not there": edited(
        lambda rows: rows.assign(ncct="", cta=["scans/none.nii.gz", *[""] * 39]), "patient 000, cta: no such file"
    ),
}
IDS = {
    "no id": edited(with_ids(""), "row 1 has none"),
    "one id twice": edited(with_ids("A1", "A1"), "patient A1, patient_id: occurs more than once"),
    "an id twice but for blanks": edited(with_ids("A1", "A1  "), "patient A1, patient_id: occurs more than once"),
    "ids that differ by case": edited(with_ids("P1", "p1"), "'p1' and 'P1' differ by case"),
    "ids that differ by leading zeros": edited(with_ids("P007", "P7"), "'P7' and 'P007' differ by .*leading zeros"),
    "ids that differ by a blank": edited(with_ids("P 1", "P1"), "'P1' and 'P 1' differ by case, blanks"),
    "ids read as numbers": edited(
        lambda rows: rows.assign(patient_id=[f"{i}.0" for i in range(len(rows))]), "all end in .0.*read as numbers"
    ),
    "ids rounded by Excel": edited(with_ids("1.23E+11"), "shortened by a spreadsheet"),
    "an id over two lines": edited(with_ids("A\n1"), "line break or control character"),
    "a totals row": edited(with_row(patient_id="Total", age="2890"), "patient Total, .*not a patient"),
    "a row of means": edited(with_row(patient_id="Mean", age="71", sex="F"), "patient Mean, .*not a patient"),
    "a note below": edited(with_row(patient_id="* reviewed by AB"), r"patient \* reviewed by AB.*not a patient"),
    "an id and nothing else": edited(with_row(patient_id="A99"), "patient A99: the row holds an id and nothing else"),
    "the header once more": edited(
        lambda rows: pd.concat([rows, pd.DataFrame([dict(zip(rows, rows, strict=True))])]), "patient_id.*header"
    ),
    "a row of units": edited(with_row(patient_id="", age="years", nihss="points"), "row 41 has none"),
    "centers that differ by case": edited(
        lambda rows: rows.assign(center=["Vall", "vall"] * 20), "center: 'vall' and 'Vall' differ by case"
    ),
}
COLUMNS = {
    "no ids at all": edited(lambda rows: rows.drop(columns="patient_id"), "patient_id: the column is missing"),
    "ids under another name": edited(lambda rows: rows.rename(columns={"patient_id": "NHC"}), "Is it the column 'nhc'"),
    "a predictor missing": edited(lambda rows: rows.drop(columns="diabetes"), "diabetes: the column is missing"),
    "a predictor under another name": edited(
        lambda rows: rows.rename(columns={"age": "Edad"}), r"age: the column is missing. Is it the column 'edad'\?"
    ),
    "a predictor with its unit": edited(
        lambda rows: rows.rename(columns={"nihss": "NIHSS (points)"}), "nihss: the column is missing"
    ),
    "an exclusion misspelt": edited(
        lambda rows: rows.assign(dsa_oclusion="1"), "dsa_oclusion: is not used, and is named almost like dsa_occlusion"
    ),
    "an outcome missing": edited(lambda rows: rows.drop(columns=["rlvo", "etici"]), "etici: the column is missing"),
    "a predictor for nobody": edited(lambda rows: rows.assign(smoking=""), "smoking: no patient has a readable value"),
    "a column twice": text(lambda table: table.replace("nihss", "Age", 1), "age: names more than one column"),
    "a column without a name": text(lambda table: table.replace("smoking", "", 1), "column 7: has no name"),
    "only the NCCT": edited(lambda rows: rows.assign(ncct=""), "cta: the column is missing"),
    "one scan for two patients": edited(
        lambda rows: rows.assign(ncct=["cohort.csv"] * 2 + [""] * 38, cta=""), "ncct: is also that of patient 000"
    ),
}
VALUES = {
    "Tmax columns swapped": edited(
        lambda rows: rows.rename(columns=dict(zip(TMAX, TMAX[::-1], strict=True))), "is more than tmax_gt4_ml"
    ),
    "Tmax > 10 s beyond Tmax > 4 s, the one between missing": edited(
        lambda rows: rows.assign(tmax_gt6_ml=["", *rows["tmax_gt6_ml"][1:]], tmax_gt10_ml="1999"),
        "patient 000, tmax_gt10_ml: 1999 mL is more than tmax_gt4_ml",
    ),
    "volumes in litres": edited(scaled(TMAX, 0.001), "tmax_gt4_ml: no value is above 1: in another unit than mL"),
    "volumes in cubic millimetres": edited(scaled(TMAX, 1000), "tmax_gt6_ml: .*0 to 2000 mL"),
    "stenosis as a fraction": edited(scaled(("final_stenosis_pct",), 0.01), "final_stenosis_pct: no value is above 1"),
    "ages scaled already": edited(scaled(("age",), 0.01), "age: no value is above 1: .*scaled already"),
    "points and commas mixed": semicolons(
        lambda rows: rows.assign(age=["70,5", "70.5", *rows["age"][2:]]), "decimal commas .* and decimal points"
    ),
    "thousands that look like decimals": semicolons(
        lambda rows: rows.assign(tmax_gt4_ml=["1.234", "1100", *["950"] * 38]), "separators of thousands or decimals"
    ),
    "thousands that look like decimal commas": semicolons(
        lambda rows: rows.assign(tmax_gt4_ml=["1,234", *["950"] * 39]), "separators of thousands or decimals"
    ),
    "a label against its outcomes": edited(
        lambda rows: rows.assign(rlvo=["0", *[""] * 39]), "patient 000, rlvo: 0 contradicts the outcomes"
    ),
    "outcomes that settle nothing": edited(
        lambda rows: rows.assign(rescue_treatment=["1", "", *["0"] * 38], final_stenosis_pct="", etici="3"),
        "patient 001, rlvo: no label",
    ),
}
FILES = {
    "no file": Malformed(lambda folder, rows: folder / "none.csv", "no such cohort table"),
    "an empty file": text(lambda table: "", "holds no patients"),
    "names and nobody": text(lambda table: table.splitlines()[0], "holds no patients"),
    "rows of different lengths": text(lambda table: table.replace("\n001,", "\n001,,", 1), "line 3: 25 cells where"),
    "a delimiter in a cell": text(lambda table: table.replace(",M1,", ",M1, distal,", 1), "25 cells .* Quote cells"),
    "a footer": text(lambda table: f"{table}Exported 2024-01-31\n", "line 42: 1 cells .*remove notes"),
    "a title above the names": text(lambda table: f"Stroke registry\n{table}", "column names are in line 2"),
    "two lines of names": text(
        lambda table: f"Demography{',' * table.splitlines()[0].count(',')}\n{table}", "column names are in line 2"
    ),
    "a quote that does not end": text(lambda table: table.replace("\n001,", '\n"001,', 1), "not readable as a delim"),
    "binary zeros": text(lambda table: table.replace("left", "le\0t", 1), "binary data"),
    "UTF-16 without its mark": Malformed(
        lambda folder, rows: written(folder, csv(rows).encode("utf-16-le")), "binary data"
    ),
    "UTF-16 cut short": Malformed(
        lambda folder, rows: written(folder, csv(rows).encode("utf-16")[:-1]), "begins as utf-16"
    ),
    "a web page named CSV": text(lambda table: f"<html><table><tr><td>{table}", "a web page"),
    "a PDF named CSV": text(lambda table: f"%PDF-1.7 {table}", "a PDF file"),
    "an XLSX named CSV": Malformed(
        lambda folder, rows: written(folder, bytes_of(openpyxl.Workbook())), "zipped file such as XLSX"
    ),
    "a CSV named XLSX": Malformed(
        lambda folder, rows: written(folder, csv(rows), "cohort.xlsx"), "not a readable XLSX file"
    ),
    "an XLS file": Malformed(lambda folder, rows: written(folder, csv(rows), "cohort.xls"), "not a table format"),
    "an XLS named XLSX": Malformed(
        lambda folder, rows: written(folder, ole(encrypted=False), "cohort.xlsx"), r"old Excel file \(XLS\) named XLSX"
    ),
    "an XLSX with a password": Malformed(
        lambda folder, rows: written(folder, ole(encrypted=True), "cohort.xlsx"), "protected by a password"
    ),
    "an XLSX cut short": Malformed(
        lambda folder, rows: written(folder, bytes_of(openpyxl.Workbook())[:-100], "cohort.xlsx"), "not a readable XLSX"
    ),
}
WORKBOOKS = {
    "merged cells": workbook(lambda book: book.active.merge_cells("B2:B4"), "cells B2:B4: are merged"),
    "a formula without a value": workbook(set_cell("tmax_gt10_ml", "=1+1"), "cell Q2: holds a formula without a value"),
    "a date cell in a number column": workbook(
        set_cell("nihss", datetime.datetime(2023, 5, 4)), "patient 000, nihss: '2023-05-04 00:00:00' .*like a date"
    ),
    "a percentage cell": workbook(set_cell("final_stenosis_pct", 0.55, "0%"), "'55%' is not allowed"),
    "two sheets of patients": workbook(two_cohorts, "which sheet is the cohort"),
    "a title above the table": workbook(titled, "column names are in line 2"),
    "a cell far away": workbook(far_cell, "reaches to cell WQJ1000000"),
    "a note beside the table": workbook(lambda book: book.active.cell(3, 30, "ask AB"), "column 30: has no name"),
}
MALFORMED = {**CELLS, **IDS, **COLUMNS, **VALUES, **FILES, **WORKBOOKS}
