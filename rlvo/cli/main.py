"""The command `rlvo`: one line and an exit code for every error a user can cause."""

import gc
import signal
import sys
import threading
import traceback
from types import FrameType, TracebackType
from typing import Annotated, NoReturn

import typer

from rlvo.about import NOTICE, code_version
from rlvo.cli import (
    ablate,
    cohort,
    configure,
    ensemble,
    evaluate,
    explain,
    models,
    predict,
    pretrain,
    recalibrate,
    report,
    search,
    status,
    synthetic,
    ui,
    weights,
)
from rlvo.cli.command import Command, CommandGroup
from rlvo.errors import RlvoError, hide_passwords
from rlvo.report.console import print_line
from rlvo.text import escape_controls

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes: what Typer makes of Ctrl-C, and what a shell makes of SIGTERM."""


app = typer.Typer(
    name="rlvo",
    cls=CommandGroup,
    epilog=NOTICE,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (
    synthetic.demo,
    synthetic.synth,
    configure.init,
    configure.schema,
    weights.convert_weights,
    cohort.validate,
    cohort.baseline,
    cohort.import_isles,
    cohort.prepare,
    pretrain.pretrain,
    search.plan,
    search.search,
    status.status,
    ui.ui,
    ensemble.ensemble,
    evaluate.evaluate,
    ablate.ablate,
    report.report,
    recalibrate.recalibrate,
    predict.predict,
    explain.explain,
    predict.serve,
    models.bundle,
):
    app.command(cls=Command)(command)
app.add_typer(models.app, name="models")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(code_version())
        raise typer.Exit


@app.callback()
def rlvo(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show version and commit.")
    ] = False,
) -> None:
    """Find, combine and ship models that predict refractory large-vessel occlusion."""


def main() -> None:
    """The console script. Exit code 0 done, 2 the input is at fault, 1 a fault of ours or of the machine.

    SIGTERM (from SLURM, systemd, Kubernetes, `ray job stop`) ends a command as Ctrl-C does.
    """
    sys.excepthook = _print_traceback
    terminated = _interrupt_on_sigterm()
    try:
        app()
    except RlvoError as error:
        for line in f"error: {error}".split("\n"):
            print_line(line)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _end_interrupted(terminated.is_set())
        raise
    except (Exception, KeyboardInterrupt):
        if terminated.is_set():  # it came before or after the command, or a library made another error of it
            _end_interrupted(True)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # all is done: what comes now need not be told
        gc.freeze()  # else Python looks through every object of torch, pandas and MLflow before it ends: a second


def _end_interrupted(is_terminated: bool) -> NoReturn:
    print_line("interrupted: run the same command again to continue")
    sys.exit(TERMINATED if is_terminated else INTERRUPTED)


def _interrupt_on_sigterm() -> threading.Event:
    """Let the first SIGTERM do what Ctrl-C does, and later ones not disturb that; the event tells that one came."""
    terminated = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not terminated.is_set():
            terminated.set()
            if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell script's background jobs
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, interrupt)
    return terminated


def _print_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As Python does, but without passwords and control characters."""
    text = hide_passwords("".join(traceback.format_exception(kind, error, trace)))
    sys.stderr.write("\n".join(map(escape_controls, text.split("\n"))))


if __name__ == "__main__":
    main()
