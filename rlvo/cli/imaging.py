"""`rlvo prepare`: a cohort's volumes, registered and on the grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rlvo.cli.common import JsonOption, WorkdirOption, console, emit_json, progress_bar
from rlvo.config.grid import PRESETS
from rlvo.config.loading import load_study
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import CohortError, RlvoError

if TYPE_CHECKING:
    import pandas as pd

    from rlvo.imaging.cohort_preparation import PreparedCohort
    from rlvo.imaging.store import VolumeStore

ROLES = ("ncct", "cta", "vessels")


def prepare(
    cohort: Annotated[Path, typer.Argument(help="Cohort table: CSV, TSV or XLSX.", metavar="COHORT")],
    store: Annotated[Path | None, typer.Option(help="Store folder.", show_default="store/ in the work folder")] = None,
    grid: Annotated[Literal["paper", "whole", "focus"], typer.Option(help="Grid in MNI space.")] = "paper",
    atlas: Annotated[Path | None, typer.Option(help="CT template in MNI space, HU (NIfTI), to register to.")] = None,
    config: Annotated[Path | None, typer.Option(help="Study whose grid and atlas to take instead.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one a core")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to prepare on, e.g. auto or head:6379.")] = None,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Read, check and register every patient's volumes, find vessels, and keep it all in a store for training.

    Started again, it prepares only what is new, changed or damaged. A patient whose files cannot be used is refused,
    the others go on. A contact sheet shows every patient, the worst first. Exit code 2 where some were refused.

    Example: rlvo prepare cohort.csv --store ./rlvo-work/store
    """
    from rlvo.imaging.cohort_preparation import prepare_cohort
    from rlvo.imaging.cohort_sheet import write_contact_sheet
    from rlvo.imaging.store import VolumeStore
    from rlvo.imaging.target import Target

    study = load_study(config) if config is not None else None
    target = Target(grid=study.grid, atlas=study.atlas) if study else Target(grid=PRESETS[grid], atlas=atlas)
    volumes = VolumeStore(store if store is not None else Workdir.at(workdir).store)
    table = _volume_columns(cohort)
    rows = {patient: _files(table.loc[patient], cohort.resolve().parent) for patient in table.index}
    with progress_bar("volumes") as progress:
        result = prepare_cohort(rows, target, volumes, workers=workers, cluster=address, verify=True, progress=progress)
    result = result.with_sides(table["occlusion_side"].dropna() if "occlusion_side" in table else {})
    sheet = volumes.path / "contact-sheets" / cohort.stem
    with progress_bar("pictures") as progress:
        page = write_contact_sheet(result, volumes, target.grid, sheet, workers=workers, progress=progress)
    if json:
        emit_json({"patients": [_described(patient, result, volumes) for patient in rows]})
    else:
        _tell(result, volumes.path, page)
    if result.refused:
        raise RlvoError(
            f"{len(result.refused)} of {len(rows)} patients refused", where=cohort, fix="Mend or remove them"
        )


def _volume_columns(path: Path) -> pd.DataFrame:
    """The columns that name volumes, and the side of the occlusion. Outcomes and classes are not looked at."""
    from rlvo.cohort.reading import examine_table
    from rlvo.cohort.tables import read_table

    raw = read_table(path)
    columns = [name for name in ("patient_id", *ROLES, "occlusion_side") if name in raw.cells]
    if not {"ncct", "cta"} & set(columns):
        raise RlvoError("neither a column ncct nor a column cta", where=path, fix="Name the volumes in them")
    typed, findings = examine_table(raw.cells[columns], decimal_comma=raw.decimal_comma)
    if nameless := [finding for finding in findings if finding.field == "patient_id"]:
        raise CohortError(nameless, where=path)
    return typed


def _files(row: pd.Series, folder: Path) -> dict[str, Path | None]:
    named = {role: row.get(role) for role in ROLES}
    return {role: folder / path if isinstance(path, str) else None for role, path in named.items()}


def _described(patient: str, result: PreparedCohort, store: VolumeStore) -> dict[str, Any]:
    if patient in result.refused:
        nothing: dict[str, Any] = {"notes": [], "seconds": None, "quality": {}, "transforms": {}}
        return {"patient_id": patient, "status": "refused", "reason": str(result.refused[patient]), **nothing}
    each = result.prepared[patient]
    return {
        "patient_id": patient,
        "status": each.verdict,
        "reason": "; ".join(each.doubts) or None,
        "notes": each.notes,
        "seconds": round(each.seconds, 2),
        "quality": each.figures,
        "transforms": {role: str(store.transform_path(each.address, role)) for role in each.roles},
    }


def _tell(result: PreparedCohort, store: Path, page: Path) -> None:
    """One line a patient that needs a look, then how many there are of each verdict and where."""
    lines = [str(error) for error in result.refused.values()]
    for patient, each in result.prepared.items():
        lines += [f"patient {patient}: {doubt}" for doubt in each.doubts]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    review = sum(each.verdict == "review" for each in result.prepared.values())
    counts = f"{len(result.prepared) - review} prepared, {review} to review, {len(result.refused)} refused"
    console.print(f"{counts}; store: {store}", highlight=False, soft_wrap=True)
    console.print(f"look at them: {page}", highlight=False, soft_wrap=True)
