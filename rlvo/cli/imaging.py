"""`rlvo prepare`: a cohort's volumes, registered and on the grid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer

from rlvo.cli.common import JsonOption, WorkdirOption, console, emit_json, progress_bar
from rlvo.config.grid import PRESETS
from rlvo.config.workdir import DEFAULT, Workdir


def prepare(
    cohort: Annotated[Path, typer.Argument(help="Cohort table: CSV, TSV or XLSX.", metavar="COHORT")],
    grid: Annotated[Literal["paper", "whole", "focus"], typer.Option(help="Grid in MNI space.")] = "paper",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one a core")] = None,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Read, check and register every patient's volumes, and keep them in the work folder's store.

    Started again, it prepares only what is new or changed. Each registered patient gets a picture to check.

    Example: rlvo prepare cohort.csv --grid paper --workdir ./rlvo-work
    """
    from rlvo.cohort.reading import read_cohort
    from rlvo.errors import RlvoError
    from rlvo.imaging.cohort_preparation import prepare_cohort
    from rlvo.imaging.pictures import overlay_picture
    from rlvo.imaging.store import VolumeStore
    from rlvo.imaging.target import Target

    checked = read_cohort(cohort, need_outcome=False)
    place = Workdir.at(workdir)
    store = VolumeStore(place.store)
    rows = {
        patient: {role: checked.volume(patient, role) for role in ("ncct", "cta", "vessels")}
        for patient in checked.table.index
    }
    with progress_bar("volumes") as progress:
        result = prepare_cohort(rows, Target(grid=PRESETS[grid]), store, workers=workers, progress=progress)

    patients: list[dict[str, Any]] = []
    pictures = place.path / "pictures" / grid
    for patient in rows:
        if patient in result.failed:
            patients.append({"patient_id": patient, "status": "refused", "reason": str(result.failed[patient])})
            continue
        prepared = store.read(result.addresses[patient])
        if prepared.registered:
            overlay_picture(prepared, PRESETS[grid], pictures / f"{quote(patient, safe=' ')}.png")
        described = {"warnings": prepared.warnings, "quality": prepared.figures, "registered": prepared.registered}
        patients.append({"patient_id": patient, "status": "prepared", **described})
    if json:
        emit_json({"patients": patients})
    else:
        _tell(patients, store.path, pictures)
    if result.failed:
        raise RlvoError(
            f"{len(result.failed)} of {len(rows)} patients refused", where=cohort, fix="Mend or remove them"
        )


def _tell(patients: list[dict[str, Any]], store: Path, pictures: Path) -> None:
    """One line a patient that needs a look, then how many are done and where."""
    for each in patients:
        for words in [each["reason"]] if each["status"] == "refused" else each["warnings"]:
            text = words if each["status"] == "refused" else f"patient {each['patient_id']}: {words}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
    done = [each for each in patients if each["status"] == "prepared"]
    console.print(f"{len(done)} of {len(patients)} patients prepared in {store}", highlight=False, soft_wrap=True)
    if any(each["registered"] for each in done):
        console.print(f"look at the pictures in {pictures}", highlight=False, soft_wrap=True)
