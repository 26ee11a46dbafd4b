"""`make bench`: every table compares ways within this run, so that its ratios mean the same on any machine.

`python -m benchmarks NAME ...` runs some of them: those of `BENCHMARKS`. `--json FILE` also writes the tables, with the
machine, to a file, beside those of benchmarks that it already holds, and draws all their ratios next to it (.svg and
.png). `--short` only proves that they run: tiny sizes, figures that mean nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.measure import machine, take_shown
from benchmarks.picture import draw_ratios

BENCHMARKS = (
    "concurrent",
    "efficientnet",
    "growth",
    "inference",
    "plan",
    "preparation",
    "profile",
    "reading",
    "scale",
    "search",
    "serve",
    "store",
    "study",
    "synthetic",
    "training",
)
"""Each is `benchmark_NAME(*, short: bool)` in the module of its name, and prints with `measure.show`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measurements, as ratios within one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write tables there, draw ratios beside it")
    parser.add_argument("--short", action="store_true", help="tiny sizes: proves that it runs, and no more")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark '{unknown[0]}'; there are {', '.join(BENCHMARKS)}")
    for name in options.names or BENCHMARKS:
        measured_on, start = machine(), time.perf_counter()
        getattr(import_module(f"benchmarks.{name}"), f"benchmark_{name}")(short=options.short)
        taken = {"machine": measured_on, "short": options.short, "seconds": round(time.perf_counter() - start, 1)}
        if options.json:
            keep(options.json, name, taken | {"tables": take_shown()})


def keep(path: Path, name: str, measured: dict[str, object]) -> None:
    """Put a benchmark's tables into the file, in place of its older ones, and draw the ratios of all."""
    held = json.loads(path.read_text()) if path.exists() else {}
    held[name] = measured
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n")
    draw_ratios(held, path)


if __name__ == "__main__":
    main()
