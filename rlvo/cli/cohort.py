"""`rlvo validate`, `baseline`, `prepare`, `import-isles`: a cohort's table and volumes, before any study."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from rlvo.cli.common import (
    ColumnsOption,
    JsonOption,
    WorkdirOption,
    column_mapping,
    print_notes,
    writable_file,
    writable_folder,
)
from rlvo.config.grid import PRESETS
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import CohortError, Finding, RlvoError
from rlvo.files import writing
from rlvo.report.console import console, print_json, print_line, show_progress, text_table
from rlvo.study.folder import load_or_started

if TYPE_CHECKING:
    from rlvo.imaging.biomarkers import Biomarkers
    from rlvo.imaging.cohort_preparation import Outcome, PreparedCohort
    from rlvo.imaging.store import VolumeStore
    from rlvo.report.cohort_page import CohortContents
    from rlvo.workflows.cohort import ExaminedCohort

CohortArgument = Annotated[Path, typer.Argument(help="Cohort table: CSV, TSV or XLSX.", metavar="COHORT")]
PredictorsOption = Annotated[
    str | None, typer.Option(help="Comma-separated predictors.", show_default="the paper's 18")
]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", help="A column that has another name; may be repeated.", metavar="OURS=THEIRS"),
]
StudyOption = Annotated[
    str | None,
    typer.Option(
        "--study",
        help="Whose split is used: a study's name in the work folder, or its YAML file.",
        show_default="the work folder's studies of these patients",
    ),
]


def validate(
    cohort: CohortArgument,
    map: MapOption = None,
    columns: ColumnsOption = None,
    predictors: PredictorsOption = None,
    study: StudyOption = None,
    workdir: WorkdirOption = Path(DEFAULT),
    html: Annotated[
        Path | None, typer.Option(help="Write a page with flow chart, Table 1 and findings.", callback=writable_file)
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for the flow chart and more as SVG and PNG.", callback=writable_folder)
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check a cohort table: every finding at once; who is included, labelled and held out; who the patients are.

    A predictor that alone separates the classes is a finding too: it may be known only after the procedure. Whom the
    work folder's studies hold out is held out here, or whom the named study holds out.

    Example: rlvo validate cohort.csv --map age=Edad --html cohort.html
    """
    from rlvo.report.style import write_picture
    from rlvo.report.table_one import table_one_table

    try:
        examined = _read(cohort, predictors, column_mapping(columns, map), study, workdir)
    except CohortError as error:
        if html:
            _write_page(html, cohort.name, error.findings, None)
        if json:
            notes = {"notes": list(error.notes)} if error.notes else {}
            print_json({"sound": False, "findings": [_finding(finding) for finding in error.findings]} | notes)
        raise
    if html or pictures:
        contents = examined.contents()
        if html:
            _write_page(html, cohort.name, examined.leaks, contents)
        if pictures:
            with writing(pictures):
                write_picture(contents.flow, pictures / "flow_chart")
                if contents.missingness:
                    write_picture(contents.missingness, pictures / "missing_values")
                for exhibit in contents.biomarkers.exhibits if contents.biomarkers else ():
                    if exhibit.figure:
                        write_picture(exhibit.figure, pictures / exhibit.name)
            print_line(f"pictures: {pictures}")
    summary = _summary(examined)
    if json:
        print_json(summary | {"table_one": examined.table_one.to_dict("records")})
    else:
        console.print(_summary_table(summary, title=f"{cohort.name}: {'suspect' if examined.leaks else 'sound'}"))
        for note in examined.notes:
            print_line(note)
        print_line("")
        console.print(table_one_table(examined.table_one))
    if examined.leaks:
        raise CohortError(examined.leaks, where=cohort)


def _read(
    path: Path,
    predictors: str | None,
    columns: dict[str, str],
    study: str | None,
    workdir: Path,
) -> ExaminedCohort:
    from rlvo.workflows.cohort import examine_cohort

    names = tuple(name.strip() for name in predictors.split(",")) if predictors else None
    work = Workdir.at(workdir, create=False)
    return examine_cohort(path, names, columns, study=study, work=work, progress=show_progress)


def _finding(finding: Finding) -> dict[str, str | None]:
    renamed = {"patient": finding.patient, "column": finding.field}
    return renamed | {name: getattr(finding, name) for name in ("value", "what", "allowed", "fix")}


def _summary(examined: ExaminedCohort) -> dict[str, Any]:
    from rlvo.cohort.variables import source_columns

    cohort, split = examined.cohort, examined.split
    table, columns = cohort.included, source_columns(examined.predictors)
    return {
        "sound": not examined.leaks,
        "findings": [_finding(leak) for leak in examined.leaks],
        "patients": len(cohort.table),
        "volumes": cohort.has_volumes,
        "excluded": {exclusion.rule: list(exclusion.patients) for exclusion in cohort.selection.excluded},
        "included": len(table),
        "rlvo": int(cohort.label.sum()),
        "split": {"hash": split.hash, "test": len(split.test), "folds": [len(fold) for fold in split.folds]}
        | {"studies": list(examined.studies), "notes": list(examined.notes)},
        "missing": {name: int(table[name].isna().sum()) for name in columns if table[name].isna().any()},
        "ignored_columns": list(cohort.ignored),
    } | ({"notes": list(cohort.notes)} if cohort.notes else {})


def _write_page(path: Path, name: str, findings: Sequence[Finding], contents: CohortContents | None) -> None:
    from rlvo.files import atomic_write
    from rlvo.report.cohort_page import cohort_page

    with writing(path):
        atomic_write(path, cohort_page(name, findings, contents))
    print_line(f"page: {path}")


def _summary_table(summary: dict[str, Any], title: str) -> Table:
    rows = {
        "patients": str(summary["patients"]),
        **{f"− {rule}": str(len(patients)) for rule, patients in summary["excluded"].items()},
        "included": str(summary["included"]),
        "rLVO": f"{summary['rlvo']} ({summary['rlvo'] / summary['included']:.1%})",
        "hold-out": str(summary["split"]["test"]),
        "validation folds": ", ".join(map(str, summary["split"]["folds"])),
        "volumes": "NCCT, CTA" if summary["volumes"] else "none: a tabular cohort",
        "missing values": _join_or_none(f"{name} {count}" for name, count in summary["missing"].items()),
        "unused columns": _join_or_none(summary["ignored_columns"]),
    }
    rows |= {"note": "; ".join(summary["notes"])} if "notes" in summary else {}
    return text_table(["", ""], list(rows.items()), title=title)


def _join_or_none(items: Iterable[str]) -> str:
    return ", ".join(items) or "none"


def baseline(
    cohort: CohortArgument,
    map: MapOption = None,
    columns: ColumnsOption = None,
    predictors: PredictorsOption = None,
    study: StudyOption = None,
    workdir: WorkdirOption = Path(DEFAULT),
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="Folder for forest plot, calibration and decision curves (SVG and PNG).", callback=writable_folder
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """What networks have to beat: NIHSS, ASPECTS, both, and all clinical variables; and their odds ratios.

    Logistic regressions and boosted trees, mean ± SD over the validation folds; once a study's ensemble was built, also
    its linear models of the volumes. The hold-out stays untouched: that of the named study, or of the work folder's
    studies of these patients.

    Example: rlvo baseline cohort.csv --pictures pictures
    """
    from rlvo.report.baselines import draw_baselines, few_events, in_larger_steps
    from rlvo.report.calibration import format_calibration
    from rlvo.report.external import calibration_json
    from rlvo.report.tables import baseline_table, odds_table
    from rlvo.workflows.cohort import fit_baselines

    examined = _read(cohort, predictors, column_mapping(columns, map), study, workdir)
    label, development = examined.cohort.label, list(examined.split.development)
    print_notes(examined.cohort.notes)
    fitted = fit_baselines(examined, Workdir.at(workdir, create=False))
    patients, rlvo = len(development), int(label[development].sum())
    title = f"Odds ratios, one fit to {patients} development patients, {rlvo} with rLVO"
    shown, caution = in_larger_steps(fitted.odds), few_events(fitted.events_per_variable)
    if pictures:
        with writing(pictures):
            draw_baselines(pictures, shown, fitted.validation, fitted.calibrations, title=title, note=caution)
    if json:
        print_json(
            {
                "patients": len(label),
                "rlvo": int(label.sum()),
                "split": {"hash": examined.split.hash, "studies": examined.studies, "notes": examined.notes},
                "development": {"patients": patients, "rlvo": rlvo},
                "validation": {name: values.to_dict("index") for name, values in fitted.metrics.items()},
                "left_out": fitted.left_out,
                "events_per_variable": fitted.events_per_variable,
                "odds_ratios": fitted.odds.to_dict("records"),
                "calibration": {name: calibration_json(found) for name, found in fitted.calibrations.items()},
            }
        )
        return
    folds = len(examined.split.folds)
    console.print(baseline_table(fitted.metrics, title=f"{cohort.name}: mean ± SD over {folds} folds"))
    for note in examined.notes:
        print_line(note)
    if fitted.left_out:
        print_line(f"left out because their columns are missing: {', '.join(fitted.left_out)}")
    print_line("")
    print_line(title)
    console.print(odds_table(shown, caution))
    for name, found in fitted.calibrations.items():
        print_line("")
        print_line(f"calibration of {name}: {', '.join(format_calibration(found))}")
    if pictures:
        print_line(f"pictures: {pictures}")


def prepare(
    cohort: CohortArgument,
    store: Annotated[
        Path | None,
        typer.Option(help="Store folder.", show_default="store/ in the work folder", callback=writable_folder),
    ] = None,
    grid: Annotated[
        Literal["paper", "head", "whole", "focus", "arteries"], typer.Option(help="Grid in MNI space.")
    ] = "paper",
    atlas: Annotated[Path | None, typer.Option(help="CT template in MNI space, HU (NIfTI), to register to.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Study whose grid, atlas and column names are used instead.")
    ] = None,
    columns: ColumnsOption = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one per core")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to prepare on, e.g. auto or head:6379.")] = None,
    biomarkers: Annotated[
        Path | None,
        typer.Option(
            help="Measure imaging biomarkers, and write the table with them as further columns (docs/biomarkers.md).",
            metavar="OUT.csv",
            callback=writable_file,
        ),
    ] = None,
    biomarker_pictures: Annotated[
        Path | None,
        typer.Option(help="Folder for a picture of each patient's biomarkers (PNG).", callback=writable_folder),
    ] = None,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Read, check and register every patient's volumes, find vessels, and keep it all in a store for training.

    Started again, it prepares only what is new, changed or damaged. A patient whose files cannot be used is refused;
    the others continue. A contact sheet shows every patient, the worst first. Exit code 2 if a patient was refused.

    Example: rlvo prepare cohort.csv --store ./rlvo-work/store --biomarkers with-biomarkers.csv
    """
    from rlvo.imaging.store import VolumeStore
    from rlvo.imaging.target import Target
    from rlvo.workflows.biomarkers import check_biomarkers, write_biomarkers
    from rlvo.workflows.cohort import prepare_volumes

    check_biomarkers(cohort, biomarkers, biomarker_pictures)
    study = load_or_started(config, Workdir.at(workdir, create=False).studies) if config is not None else None
    target = Target(grid=study.grid, atlas=study.atlas) if study else Target(grid=PRESETS[grid], atlas=atlas)
    volumes = VolumeStore(store if store is not None else Workdir.at(workdir).store)
    mapping = (study.cohort.columns if study else {}) | column_mapping(columns)
    prepared, page, notes = prepare_volumes(
        cohort, target, volumes, workers=workers, address=address, mapping=mapping, progress=show_progress
    )
    print_notes(notes)
    measured: dict[str, Biomarkers] = {}
    if biomarkers is not None:
        measured = write_biomarkers(
            cohort,
            prepared,
            volumes,
            biomarkers,
            pictures=biomarker_pictures,
            mapping=mapping,
            workers=workers,
            progress=show_progress,
        )
    if json:
        described = {patient: _described(patient, each, volumes) for patient, each in prepared.outcomes.items()}
        for patient, each in measured.items():
            values = {name: None if math.isnan(value) else value for name, value in each.values.items()}
            described[patient]["biomarkers"] = values | {"side": each.side, "doubts": each.doubts}
        print_json({"patients": [*described.values()]})
    else:
        _print_preparation(prepared, volumes.path, page)
        if biomarkers is not None:
            _print_biomarkers(measured, biomarkers, biomarker_pictures)
    if prepared.refused:
        what = f"{len(prepared.refused)} of {len(prepared.outcomes)} patients refused"
        raise RlvoError(what, where=cohort, fix="Fix or remove them")


def _described(patient: str, each: Outcome, store: VolumeStore) -> dict[str, Any]:
    if isinstance(each, RlvoError):
        nothing: dict[str, Any] = {"notes": [], "seconds": None, "quality": {}, "transforms": {}}
        return {"patient_id": patient, "status": "refused", "reason": str(each), **nothing}
    return {
        "patient_id": patient,
        "status": each.verdict,
        "reason": "; ".join(each.doubts) or None,
        "notes": each.notes,
        "seconds": round(each.seconds, 2),
        "quality": each.figures,
        "transforms": {role: str(store.transform_path(each.address, role)) for role in each.roles},
    }


def _print_preparation(result: PreparedCohort, store: Path, page: Path) -> None:
    """One line per patient who needs a look, then the number of patients with each verdict, and where to look."""
    for error in result.refused.values():
        print_line(str(error))
    for patient, each in result.prepared.items():
        for doubt in each.doubts:
            print_line(f"patient {patient}: {doubt}")
    review = sum(each.verdict == "review" for each in result.prepared.values())
    counts = f"{len(result.prepared) - review} prepared, {review} to review, {len(result.refused)} refused"
    print_line(f"{counts}; store: {store}")
    print_line(f"look at them: {page}")


def _print_biomarkers(measured: Mapping[str, Biomarkers], out: Path, pictures: Path | None) -> None:
    """How often each was measured, how many patients need a look, and where the table and the pictures are."""
    names = {name for each in measured.values() for name in each.values}
    missing = {name: sum(math.isnan(each.values[name]) for each in measured.values()) for name in sorted(names)}
    doubtful = sum(bool(each.doubts) for each in measured.values())
    print_line(f"biomarkers of {len(measured)} patients, {doubtful} with doubts: {out}")
    print_line(f"not measured: {_join_or_none(f'{name} {count}' for name, count in missing.items() if count)}")
    if pictures is not None:
        print_line(f"pictures of them: {pictures}")


def import_isles(
    folder: Annotated[Path, typer.Argument(help="ISLES'24 as published.", metavar="FOLDER")],
    out: Annotated[Path, typer.Argument(help="Folder for cohort.csv.", metavar="OUT", callback=writable_folder)],
    json: JsonOption = False,
) -> None:
    """Make a cohort table of ISLES'24: clinical data, paths of NCCT and CTA, perfusion volumes from its maps.

    A model can score its patients; practically all were recanalised, so they cannot train rLVO.

    Example: rlvo import-isles ISLES-2024 ./isles
    """
    from rlvo.cohort.isles24 import isles24_cohort

    with show_progress("patients") as advance:
        report = isles24_cohort(folder, out, progress=advance)
    if json:
        print_json({**vars(report), "findings": [_finding(finding) for finding in report.findings]})
        return
    for finding in report.findings:
        print_line(str(finding))
    print_line(f"wrote {out / 'cohort.csv'}: {report.patients} patients")
    print_line(f"without a value: {_join_or_none(f'{name} {count}' for name, count in report.missing.items())}")
    print_line(f"eTICI 0–2a: {report.failed_recanalisations} patients. {report.notice}")
