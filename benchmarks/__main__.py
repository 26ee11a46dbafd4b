"""`make bench`: every table compares ways within this run, so that its ratios mean the same on any machine.

`python -m benchmarks NAME ...` runs some of them: those of `BENCHMARKS`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks.concurrent import benchmark_concurrent
from benchmarks.efficientnet import benchmark_efficientnet
from benchmarks.inference import benchmark_inference
from benchmarks.plan import benchmark_plan
from benchmarks.preparation import benchmark_preparation
from benchmarks.search import benchmark_search
from benchmarks.store import benchmark_store
from benchmarks.synthetic import benchmark_synthetic
from benchmarks.training import benchmark_training

BENCHMARKS: dict[str, Callable[[], None]] = {
    "concurrent": benchmark_concurrent,
    "efficientnet": benchmark_efficientnet,
    "inference": benchmark_inference,
    "plan": benchmark_plan,
    "preparation": benchmark_preparation,
    "search": benchmark_search,
    "store": benchmark_store,
    "synthetic": benchmark_synthetic,
    "training": benchmark_training,
}


def main() -> None:
    """Run the benchmarks named, or all."""
    for name in sys.argv[1:] or BENCHMARKS:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
