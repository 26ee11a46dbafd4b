"""`rlvo recalibrate`: a registered model's probabilities fitted to a hospital's own patients."""

from pathlib import Path
from typing import Annotated

import typer

from rlvo.about import NOTICE
from rlvo.cli.common import ColumnsOption, JsonOption, ModelArgument, WorkdirOption, column_mapping, print_notes
from rlvo.config.commands import command_line
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.report.console import print_json, print_line, show_progress


def recalibrate(
    model: ModelArgument,
    cohort: Annotated[Path, typer.Argument(help="Table of your own patients, with outcomes.")],
    columns: ColumnsOption = None,
    workdir: WorkdirOption = Path(DEFAULT),
    json: JsonOption = False,
) -> None:
    """Fit a model's probabilities to your own patients; the result is a new version, not the champion.

    Scores, thresholds and decisions stay as they are. It takes at least 10 patients with and 10 without rLVO to fit the
    intercept, and 50 of either to fit the slope too. Run again after an interruption, it continues.

    Example: rlvo recalibrate rlvo-ensemble@champion hospital-b.csv
    """
    from rlvo.report.calibration import format_calibration
    from rlvo.workflows.recalibrate import recalibrate

    work = Workdir.at(workdir, create=False)
    found = recalibrate(model, cohort, work, columns=column_mapping(columns), progress=show_progress)
    print_notes(found.notes)
    if json:
        values = {**vars(found), "before": found.before.estimates.to_dict("index")}
        print_json({**values, "notice": NOTICE})
        return
    print_line(f"{found.model} version {found.old} on {found.patients} patients, {found.positives} with rLVO:")
    for line in format_calibration(found.before):
        print_line(f"  {line}")
    how = f"{found.intercept:+.2f} {found.slope:+.2f}".replace("-", "−") + " × the old log-odds"
    print_line(f"registered version {found.new}: log-odds {how}")
    promote = command_line("models", "promote", found.new, "--model", found.model, workdir=workdir)
    print_line("evaluate it on other patients than these")
    print_line(f"to use it: {promote}")
    print_line(NOTICE)
