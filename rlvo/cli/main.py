"""The command `rlvo`: one line and an exit code for every error a user can cause."""

from __future__ import annotations

import sys

import typer

from rlvo import NOTICE
from rlvo.cli import bundle, cohort, demo, ensemble, evaluate, imaging, models, predict, search, serve, status, synth
from rlvo.cli.common import console
from rlvo.errors import RlvoError

INTERRUPTED = 130
"""What Typer makes of Ctrl-C."""

app = typer.Typer(
    name="rlvo",
    help="Find, combine and ship models that predict refractory large-vessel occlusion.",
    epilog=NOTICE,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (
    demo.demo,
    synth.synth,
    cohort.validate,
    cohort.baseline,
    cohort.import_isles,
    imaging.prepare,
    search.plan,
    search.search,
    status.status,
    ensemble.ensemble,
    evaluate.evaluate,
    predict.predict,
    serve.serve,
    bundle.bundle,
):
    app.command()(command)
app.add_typer(models.app, name="models")


def main() -> None:
    """The console script. Exit code 0 done, 2 the input is at fault, 1 a fault of ours or of the machine."""
    try:
        app()
    except RlvoError as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            console.print("interrupted: run the same command again to go on")
        raise


if __name__ == "__main__":
    main()
