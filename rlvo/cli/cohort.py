"""`rlvo validate`, `rlvo baseline`, `rlvo import-isles`: is the table sound, what do its clinical variables predict?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from rlvo.cli.common import JsonOption, console, emit_json, progress_bar
from rlvo.config.study import PAPER_PREDICTORS, FoldsConfig
from rlvo.errors import CohortError, Finding, RlvoError

if TYPE_CHECKING:
    import pandas as pd

    from rlvo.cohort.reading import Cohort
    from rlvo.cohort.selection import Selection
    from rlvo.cohort.splits import Split
    from rlvo.report.cohort_page import CohortContents

CohortArgument = Annotated[Path, typer.Argument(help="Cohort table: CSV, TSV or XLSX.", metavar="COHORT")]
PredictorsOption = Annotated[
    str | None, typer.Option(help="Comma-separated predictors.", show_default="the paper's 18")
]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", help="A column that is named otherwise; may be repeated.", metavar="OURS=THEIRS"),
]
MappingOption = Annotated[Path | None, typer.Option(help="YAML file with a line 'ours: theirs' a column.")]
DRAWN = ("all clinical", "all clinical, boosted")
"""Baselines whose calibration and decision curves are drawn."""


def validate(
    cohort: CohortArgument,
    map: MapOption = None,
    mapping: MappingOption = None,
    predictors: PredictorsOption = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with flow chart, Table 1 and findings.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder for the flow chart and more as SVG and PNG.")] = None,
    json: JsonOption = False,
) -> None:
    """Check a cohort table: every finding at once; who is included, labelled and held out; who the patients are.

    A predictor that alone separates the classes is a finding too: it may be known only after the procedure.

    Example: rlvo validate cohort.csv --map age=Edad --html cohort.html
    """
    names = _predictors(predictors)
    try:
        included = _read(cohort, names, _mapping(map, mapping))
    except CohortError as error:
        if html:
            _write_page(html, cohort.name, error.findings, None)
        if json:
            emit_json({"sound": False, "findings": [_finding(finding) for finding in error.findings]})
        raise
    from rlvo.cohort.leaks import suspected_leaks
    from rlvo.report.table_one import table_one, table_one_table

    development = list(included.split.development)
    leaks = suspected_leaks(included.table.loc[development], included.label[development], names)
    characteristics = table_one(included.table, included.label, included.split.test)
    if html or pictures:
        contents = _contents(included, characteristics)
        if html:
            _write_page(html, cohort.name, leaks, contents)
        if pictures:
            _write_pictures(pictures, contents)
    summary = _summary(included, names, leaks)
    if json:
        emit_json(summary | {"table_one": characteristics.to_dict("records")})
    else:
        console.print(_summary_table(summary, title=f"{cohort.name}: {'suspect' if leaks else 'sound'}"))
        console.print(table_one_table(characteristics))
    if leaks:
        raise CohortError(leaks, where=cohort)


@dataclass(frozen=True)
class _Included:
    """A sound cohort, and what becomes of it."""

    cohort: Cohort
    selection: Selection
    table: pd.DataFrame
    """Of the included patients, as is the label."""
    label: pd.Series
    split: Split


def _read(path: Path, predictors: Sequence[str], mapping: Mapping[str, str]) -> _Included:
    from rlvo.cohort.label import rlvo_label
    from rlvo.cohort.reading import read_cohort
    from rlvo.cohort.selection import select
    from rlvo.cohort.splits import make_split

    cohort = read_cohort(path, predictors, need_volumes=False, mapping=mapping)
    selection = select(cohort, predictors)
    table = cohort.subset(selection.included).table
    label = rlvo_label(table)
    return _Included(cohort, selection, table, label, make_split(label, FoldsConfig(), table))


def _predictors(written: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in written.split(",")) if written else PAPER_PREDICTORS


def _mapping(items: Sequence[str] | None, path: Path | None) -> dict[str, str]:
    """The file's mapping, with the items put over it."""
    from rlvo.cohort.mapping import parse_map, read_mapping

    return (read_mapping(path) if path else {}) | parse_map(*(items or ()))


def _finding(finding: Finding) -> dict[str, str | None]:
    return {
        "patient": finding.patient,
        "column": finding.field,
        "value": finding.value,
        "what": finding.what,
        "allowed": finding.allowed,
        "fix": finding.fix,
    }


def _summary(included: _Included, predictors: Sequence[str], leaks: Sequence[Finding]) -> dict[str, Any]:
    from rlvo.cohort.variables import source_columns

    table, split = included.table, included.split
    return {
        "sound": not leaks,
        "findings": [_finding(leak) for leak in leaks],
        "patients": len(included.cohort.table),
        "volumes": included.cohort.has_volumes,
        "excluded": {exclusion.rule: list(exclusion.patients) for exclusion in included.selection.excluded},
        "included": len(table),
        "rlvo": int(included.label.sum()),
        "split": {"hash": split.hash, "test": len(split.test), "folds": [len(fold) for fold in split.folds]},
        "missing": {n: int(table[n].isna().sum()) for n in source_columns(predictors) if table[n].isna().any()},
        "ignored_columns": list(included.cohort.ignored),
    }


def _contents(included: _Included, characteristics: pd.DataFrame) -> CohortContents:
    from rlvo.cohort.pseudonym import cohort_key
    from rlvo.cohort.selection import flow
    from rlvo.cohort.variables import VARIABLES
    from rlvo.report.cohort_page import CohortContents
    from rlvo.report.flow_chart import Part, flow_chart
    from rlvo.report.missingness import missingness_plot

    def part(name: str, patients: Sequence[str]) -> Part:
        return Part(name, len(patients), int(included.label[list(patients)].sum()))

    split = included.split
    steps = flow(included.selection, cohort_key(included.cohort.folder))
    chart = flow_chart(
        included.selection.considered,
        steps,
        part("Development", split.development),
        part("Test set (held out)", split.test),
        [part(f"Fold {k + 1}", fold) for k, fold in enumerate(split.folds)],
    )
    values = included.table.filter([name for name, v in VARIABLES.items() if v.role in ("predictor", "score")])
    missingness = missingness_plot(values) if values.isna().any(axis=None) else None
    return CohortContents(chart, steps, characteristics, missingness, split.hash, included.cohort.ignored)


def _write_page(path: Path, name: str, findings: Sequence[Finding], contents: CohortContents | None) -> None:
    from rlvo.files import atomic_write
    from rlvo.report.cohort_page import cohort_page

    with _writing(path):
        atomic_write(path, cohort_page(name, findings, contents))
    console.print(f"page: {path}", highlight=False, soft_wrap=True)


def _write_pictures(folder: Path, contents: CohortContents) -> None:
    from rlvo.report.style import write_picture

    with _writing(folder):
        write_picture(contents.flow, folder / "flow_chart")
        if contents.missingness:
            write_picture(contents.missingness, folder / "missing_values")
    console.print(f"pictures: {folder}", highlight=False, soft_wrap=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RlvoError(f"cannot be written ({error.strerror})", where=path, fix="Name another place") from None


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


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items) or "none"


def baseline(
    cohort: CohortArgument,
    map: MapOption = None,
    mapping: MappingOption = None,
    predictors: PredictorsOption = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for forest plot, calibration and decision curves (SVG and PNG).")
    ] = None,
    json: JsonOption = False,
) -> None:
    """What networks have to beat: NIHSS, ASPECTS, both, and all clinical variables; and their odds ratios.

    Logistic regressions and boosted trees, mean ± SD over the validation folds. Test patients stay untouched.

    Example: rlvo baseline cohort.csv --pictures pictures
    """
    from rlvo.evaluation.calibration import calibration
    from rlvo.evaluation.metrics import over_folds
    from rlvo.report.baselines import baseline_table, draw_baselines, odds_table
    from rlvo.report.calibration import calibration_words
    from rlvo.training.baseline import BASELINES, clinical_baselines, clinical_odds

    names = _predictors(predictors)
    included = _read(cohort, names, _mapping(map, mapping))
    label, split = included.label, included.split
    results = clinical_baselines(included.table, label, split, names)
    metrics = {name: over_folds(result.validation_metrics()) for name, result in results.items()}
    odds = clinical_odds(included.table, label, split, names)
    drawn = {name: results[name].validation for name in DRAWN if name in results}
    calibrations = {name: calibration(own["label"], own["probability"]) for name, own in drawn.items()}
    left_out = [name for name in BASELINES if name not in results]
    patients, rlvo = len(split.development), int(label[list(split.development)].sum())
    title = f"Odds ratios, one fit to {patients} development patients, {rlvo} with rLVO"
    if pictures:
        with _writing(pictures):
            draw_baselines(pictures, odds, drawn, calibrations, title=title)
    if json:
        emit_json(
            {
                "patients": len(included.table),
                "rlvo": int(label.sum()),
                "development": {"patients": patients, "rlvo": rlvo},
                "validation": {name: values.to_dict("index") for name, values in metrics.items()},
                "left_out": left_out,
                "odds_ratios": odds.to_dict("records"),
                "calibration": {
                    name: {"ece": found.ece, "ece_if_calibrated": found.ece_if_calibrated}
                    | found.estimates.to_dict("index")
                    for name, found in calibrations.items()
                },
            }
        )
        return
    console.print(baseline_table(metrics, title=f"{cohort.name}: mean ± SD over {len(split.folds)} folds"))
    if left_out:
        console.print(f"left out, as their columns are missing: {', '.join(left_out)}", soft_wrap=True)
    console.print(f"\n{title}", odds_table(odds), sep="\n")
    for name, found in calibrations.items():
        console.print(f"\ncalibration of {name}: {', '.join(calibration_words(found))}", highlight=False)
    if pictures:
        console.print(f"pictures: {pictures}", highlight=False, soft_wrap=True)


def import_isles(
    folder: Annotated[Path, typer.Argument(help="ISLES'24 as published.", metavar="FOLDER")],
    out: Annotated[Path, typer.Argument(help="Folder for cohort.csv.", metavar="OUT")],
    json: JsonOption = False,
) -> None:
    """Make a cohort table of ISLES'24: clinical data, paths of NCCT and CTA, perfusion volumes from its maps.

    Its patients can be predicted for; practically all were recanalised, so it cannot train rLVO.

    Example: rlvo import-isles ISLES-2024 ./isles
    """
    from rlvo.cohort.isles24 import isles24_cohort

    with progress_bar("patients") as progress:
        report = isles24_cohort(folder, out, progress=progress)
    if json:
        emit_json({**vars(report), "findings": [_finding(finding) for finding in report.findings]})
        return
    for finding in report.findings:
        console.print(str(finding), markup=False, highlight=False, soft_wrap=True)
    missing = _listed(f"{name} {count}" for name, count in report.missing.items())
    console.print(f"wrote {out / 'cohort.csv'}: {report.patients} patients", highlight=False, soft_wrap=True)
    console.print(f"without a value: {missing}", highlight=False)
    console.print(f"eTICI 0–2a: {report.failed_recanalisations} patients. {report.notice}", highlight=False)
