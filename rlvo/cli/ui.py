"""`rlvo ui`: MLflow's UI on a work folder, and links to what its studies show there."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlvo.cli.common import WorkdirOption, print_links
from rlvo.config.workdir import DEFAULT, Workdir
from rlvo.errors import MachineError
from rlvo.report.console import print_line, show_working

if TYPE_CHECKING:
    from rlvo.tracking.views import StudyPages


def ui(
    workdir: WorkdirOption = Path(DEFAULT),
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port on this machine.", show_default="5000, or any if that is taken"),
    ] = None,
) -> None:
    """Open the MLflow UI on a work folder, for this machine only; Ctrl-C ends it.

    It prints links to each study's trials, best first, to all trials compared, and to its ensembles.

    Example: rlvo ui --workdir ./rlvo-work --port 5001
    """
    work = Workdir.at(workdir, create=False)
    try:
        with ExitStack() as running:
            with show_working("MLflow starts"):
                from rlvo.workflows.ui import HOST, PORT, choose_port, mlflow_server, pages_by_study, where_to_look

                tracking = where_to_look(work)
                if tracking.is_server:
                    _print_pages(tracking.ui, pages_by_study(work, tracking, tracking.ui))
                    return
                signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))  # a closed terminal ends it too
                chosen = choose_port(port)
                if port is None and chosen != PORT:
                    print_line(f"port {PORT} is taken, so it is {chosen}")
                print_line("MLflow starts, which takes some seconds ...")
                server, address = (
                    running.enter_context(mlflow_server(work, tracking, chosen)),
                    f"http://{HOST}:{chosen}/",
                )
                pages = pages_by_study(work, tracking, address)
            _print_pages(address, pages)
            print_line("Ctrl-C ends it")
            code = server.wait()
    except KeyboardInterrupt:
        return
    raise MachineError(f"MLflow's server ended by itself (exit code {code})", where=address)


def _print_pages(address: str, pages: Mapping[str, StudyPages]) -> None:
    print_line(f"MLflow: {address}")
    for study, each in pages.items():
        print_line(f"{study}:")
        print_links({f"  {name}": link for name, link in asdict(each).items()})
    if not pages:
        print_line("no study has runs there yet")
