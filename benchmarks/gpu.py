"""All that a GPU is to show, in eight minutes: `make bench-gpu`, or `python -m benchmarks.gpu [--json FILE]`.

Each part runs in a process of its own, within its share of the time. What it has measured is kept after every row, so a
part that fails or takes too long, or the end of the eight minutes, loses nothing else. Exit code 1 if a part failed.
Without a GPU, and with `--short`, the same code runs on tiny sizes: proof that it runs, and no more.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.__main__ import keep
from benchmarks.gpu_parts import PARTS
from benchmarks.measure import Put, machine, show

MINUTES = 8.0
START = "spawn"
"""How a part's process starts: on its own, so that its memory is."""
CLOSING_SECONDS = 5.0
"""For a part that is told to end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts named, or all; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, default=Path("build/bench-gpu.json"), metavar="FILE")
    parser.add_argument("--short", action="store_true", help="tiny sizes: proves that it runs, and no more")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all parts together")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no part '{unknown[0]}'; there are {', '.join(PARTS)}")
    short = options.short
    if not torch.cuda.is_available() and not short:
        print("no GPU here: the same code runs on the CPU, on tiny sizes; its figures mean nothing")
        short = True
    names, end, failed = options.parts or list(PARTS), time.monotonic() + 60 * options.minutes, dict[str, str]()
    for number, name in enumerate(names):
        shares = [PARTS[each].share for each in names[number:]]  # what a part leaves over, the others have
        seconds = (end - time.monotonic()) * shares[0] / sum(shares)
        print(f"{name}: at most {seconds:.0f} s", flush=True)
        if (why := run_part(name, options.json, max(seconds, 0.0), short=short)) is not None:
            failed[name] = why
            print(f"{name} failed: {why}", file=sys.stderr, flush=True)
    print(f"kept in {options.json}; " + (f"failed: {', '.join(failed)}" if failed else "every part ran to its end"))
    return 1 if failed else 0


def run_part(name: str, path: Path, seconds: float, *, short: bool) -> str | None:
    """Run a part and keep its tables as they grow, in the file and beside it as a picture. Returns why it failed."""
    kind: Any = multiprocessing.get_context(START)
    received, sent = kind.Pipe(duplex=False)
    started, measured_on = time.monotonic(), machine()
    process = kind.Process(target=_work, args=(name, short, sent))
    process.start()
    sent.close()
    tables, why = dict[str, dict[str, Any]](), f"it took longer than its {seconds:.0f} s"
    try:
        while received.poll(max(started + seconds - time.monotonic(), 0.0)):
            what, content = received.recv()
            if what == "ended":
                why = content
                process.join(CLOSING_SECONDS)
                break
            tables[content["title"]] = content
            _keep(path, name, tables, measured_on, started, why=None, short=short)
    except EOFError:
        process.join(CLOSING_SECONDS)
        why = f"its process died (exit code {process.exitcode})"
    finally:  # also if this process is told to end
        process.terminate()
        process.join(CLOSING_SECONDS)
        process.kill()
    for table in tables.values():
        rows = {row: [math.nan if x is None else x for x in figures] for row, figures in table["rows"].items()}
        show(table["title"], table["columns"], rows, ratio=table["ratio"])
    _keep(path, name, tables, measured_on, started, why=why, short=short)
    return why


def _keep(
    path: Path,
    name: str,
    tables: dict[str, dict[str, Any]],
    measured_on: dict[str, Any],
    started: float,
    *,
    why: str | None,
    short: bool,
) -> None:
    seconds = round(time.monotonic() - started, 1)
    taken = {"machine": measured_on, "short": short, "seconds": seconds, "tables": list(tables.values())}
    keep(path, f"gpu: {name}", taken | ({"failed": why} if why else {}))


def _work(name: str, short: bool, sent: Connection) -> None:
    """In the part's process: send each table again whenever it has a row more, then how it ended."""
    put = Put(sent)
    try:
        PARTS[name].work(put, short)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the other parts go on
        traceback.print_exc()
        sent.send(("ended", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
    else:
        sent.send(("ended", None))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the part's process ends too
    sys.exit(main())
