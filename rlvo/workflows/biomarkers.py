"""Imaging biomarkers of a cohort: measured in its raw scans, and joined to its table as further columns."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from rlvo.cohort.cells import MISSING
from rlvo.cohort.mapping import plain_name
from rlvo.cohort.reading import cell_text, examine_table, volume_paths
from rlvo.cohort.splits import Split
from rlvo.cohort.tables import RawTable, read_table
from rlvo.cohort.variables import VOLUMES
from rlvo.config.predictors import OwnPredictor
from rlvo.errors import MachineError, RlvoError
from rlvo.files import atomic_write, csv_text
from rlvo.imaging.biomarkers import DECLARED, PREFIX, Biomarkers, declarations
from rlvo.imaging.cohort_biomarkers import measure_cohort
from rlvo.imaging.cohort_preparation import PreparedCohort
from rlvo.imaging.store import VolumeStore
from rlvo.progress import ShowProgress, no_progress
from rlvo.report.biomarker_picture import DrawBiomarkers, picture_names
from rlvo.report.biomarkers import biomarkers_section
from rlvo.report.exhibit import Section

LOOKED_AT = ("patient_id", *VOLUMES, "occlusion_side", "occlusion_site")
"""The only columns whose cells are interpreted; the others are copied as they are written."""
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
DIGITS = 2
"""Decimals: three could be read as thousands."""
SIDE = OwnPredictor(name="biomarkers_side", kind="categorical", levels=("left", "right"), source=f"{PREFIX}side")


def check_biomarkers(cohort: Path, out: Path | None, pictures: Path | None) -> None:
    """Refuse options that do not go together, before any work. Raises RlvoError."""
    if pictures is not None and out is None:
        raise RlvoError("pictures show what is measured for a table", where=pictures, fix="Add --biomarkers OUT.csv")
    if out is not None and out.suffix.lower() != ".csv":
        raise RlvoError("the table with biomarkers is a CSV file", where=out, fix="Give it a name that ends in .csv")
    if out is not None and out.resolve() == cohort.resolve():
        raise RlvoError("this is the cohort table itself", where=out, fix="Name another file")


def write_biomarkers(
    path: Path,
    prepared: PreparedCohort,
    store: VolumeStore,
    out: Path,
    *,
    pictures: Path | None = None,
    mapping: Mapping[str, str] | None = None,
    workers: int | None = None,
    progress: ShowProgress = no_progress,
) -> dict[str, Biomarkers]:
    """Measure the biomarkers of a prepared cohort, and write its table with them as further columns.

    Outcomes and other columns are copied as text. Paths are kept right if `out` is in another folder. Columns of an
    earlier measurement are replaced.

    Args:
        path: the cohort table that was prepared.
        out: a CSV file, its owner's alone.
        pictures: folder for one PNG per patient; None: none are drawn.
        mapping: our column names to the table's, if they differ.
        workers: processes; None: one per core.

    Returns:
        What was measured, by patient, in the table's order.

    Raises:
        RlvoError: the table cannot be read.
        MachineError: a process died, or something cannot be written.
    """
    given = {ours: theirs for ours, theirs in (mapping or {}).items() if ours in LOOKED_AT}
    raw = read_table(path, given, partly=True)
    columns = [name for name in LOOKED_AT if name in raw.cells]
    table, _ = examine_table(raw.cells[columns], decimal_comma=raw.decimal_comma)
    sides, sites = (
        {str(p): str(v) for p, v in table[name].dropna().items()} if name in table else {}
        for name in ("occlusion_side", "occlusion_site")
    )
    draw = None if pictures is None else DrawBiomarkers(pictures, picture_names([*prepared.prepared]))
    try:
        with progress("biomarkers") as advance:
            measured = measure_cohort(
                prepared,
                volume_paths(table, path.resolve().parent),
                store,
                sides=sides,
                sites=sites,
                workers=workers,
                draw=draw,
                progress=advance,
            )
        atomic_write(out, _joined(raw, [*map(str, table.index)], measured, given, path, out))
    except OSError as error:
        where = out if pictures is None else f"{out} or {pictures}"
        raise MachineError(f"cannot be written: {error.strerror or error}", where=where) from None
    return measured


def _joined(
    raw: RawTable,
    patients: list[str],
    measured: Mapping[str, Biomarkers],
    given: Mapping[str, str],
    path: Path,
    out: Path,
) -> str:
    """The table as CSV, with the biomarkers behind its own columns, which keep their names."""
    old = [name for name in raw.cells if plain_name(name).startswith(PREFIX)]
    cells = raw.cells.drop(columns=old).map(lambda cell: cell_text(cell) or "").reset_index(drop=True)
    here, there = path.resolve().parent, out.resolve().parent
    if here != there:
        for name in (name for name in VOLUMES if name in cells):
            cells[name] = [os.path.relpath(here / cell, there) if cell else "" for cell in cells[name]]
    cells = cells.rename(columns={ours: plain_name(theirs) for ours, theirs in given.items()})
    has_commas = raw.decimal_comma and cells.map(DECIMAL_COMMA.fullmatch).notna().any(axis=None)
    rows = [measured.get(patient) for patient in patients]
    for name in DECLARED:
        values = pd.Series([float("nan") if row is None else round(row.values[name], DIGITS) for row in rows])
        text = values.map(lambda value: "" if pd.isna(value) else f"{value:g}".replace(".", ","))
        cells[f"{PREFIX}{name}"] = text if has_commas else values
    cells[f"{PREFIX}side"] = ["" if row is None else row.side or "" for row in rows]
    cells[f"{PREFIX}doubts"] = ["not prepared" if row is None else "; ".join(row.doubts) for row in rows]
    return csv_text(cells, separator=";" if has_commas else ",")


def section_of_table(
    path: Path, table: pd.DataFrame, label: pd.Series, split: Split, mapping: Mapping[str, str] | None = None
) -> Section | None:
    """The section about the biomarkers that a cohort's table holds; None if it holds none.

    Args:
        path: the cohort table, which is read once more: its columns `biomarkers.*` may be predictors or not.
        table: of the included patients, checked.
        label: 0 or 1 per patient.
        split: the outcomes of its hold-out play no part.
        mapping: our column names to the table's, if they differ.

    Raises RlvoError if the file cannot be read as a table.
    """
    raw = read_table(path, {ours: theirs for ours, theirs in (mapping or {}).items() if ours == "patient_id"})
    own = {each.source: each for each in (*declarations(), SIDE) if each.source in raw.cells}
    names = {source: each.name for source, each in own.items()}
    if not {*own} - {SIDE.source}:
        return None
    columns = raw.cells[["patient_id", *own]].rename(columns=names)
    typed, _ = examine_table(columns, [*own.values()], decimal_comma=raw.decimal_comma)
    text = columns[[*names.values()]].map(lambda cell: (cell_text(cell) or "").lower() not in MISSING)
    measured = typed.rename(columns={f"biomarkers_{name}": name for name in (*DECLARED, "side")})
    measured["unreadable"] = (text.to_numpy() & typed[[*names.values()]].isna().to_numpy()).sum(axis=1)
    doubts = raw.cells.get(f"{PREFIX}doubts", pd.Series("", index=raw.cells.index))
    measured["doubts"] = [cell_text(cell) or "" for cell in doubts]
    if "side" not in measured:
        measured["side"] = None
    return biomarkers_section(
        measured.loc[list(table.index)], label, split.development, table.get("occlusion_side", None)
    )
