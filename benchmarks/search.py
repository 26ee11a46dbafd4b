"""Searches of planted problems: what pruning saves and what it misses; what a search costs in addition to training."""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.measure import show
from rlvo.report.style import COLOURS, DPI, GREY, PAGE_WIDTH, paper_style
from rlvo.search.searcher import FoldSearcher
from rlvo.study.folder import StudyFolder

REPOSITORY = Path(__file__).parents[1]
sys.path.append(str(REPOSITORY / "tests"))
from support.planted import EPOCHS, FOLDS, SPACE, PlantedTrials, full_grid, planted_study, search  # noqa: E402

PICTURE = REPOSITORY / "docs" / "images" / "search.png"
GRID_EPOCHS = len(planted_study().grid_points()) * FOLDS * EPOCHS
PROBLEMS = 10
MEMORY = Path("/dev/shm")

SAMPLED = {"sample": {path: {"choices": values} for path, values in SPACE["enumerate"].items()} | SPACE["sample"]}
HALVING = {"pruning": "halving", "min_epochs": 10, "reduction_factor": 2}
WAYS: dict[str, dict[str, Any]] = {
    "random": {"space": SAMPLED, "sampler": "random", "configurations": 72},
    "grid, pruning by epoch": HALVING | {"first_folds": 4},
    "grid, pruning by fold": HALVING | {"first_folds": 1, "min_epochs": 60},
    "grid, both, from 1 fold": HALVING | {"first_folds": 1},
    "grid, both, from 2 folds": HALVING | {"first_folds": 2},
    "grid, both, thirds": HALVING | {"first_folds": 2, "reduction_factor": 3},
    "TPE, both, from 2 folds": HALVING
    | {"space": SAMPLED, "sampler": "tpe", "configurations": 72, "bracket": 24, "first_folds": 2},
}
PICTURED = {
    "random": "random",
    "grid, both, from 2 folds": "grid, both prunings",
    "TPE, both, from 2 folds": "TPE, both prunings",
}

Steps = Sequence[tuple[float, float]]
"""Epochs trained and the best objective found by then, as shares of the full grid's; where it rises, and at the end."""


SIZES = (150, 600, 1200)
EVENTS = ("suggest", "on_trial_result", "on_trial_complete")


def benchmark_search(*, short: bool = False) -> None:
    """Print tables, and draw the picture of the documentation; `short`: without real searches and the picture."""
    if short:
        benchmark_searcher([24])
        benchmark_planted_search(["TPE, both, from 2 folds"], 1, picture=None)
        return
    benchmark_searcher()
    benchmark_planted_search()
    from benchmarks.real_search import benchmark_real_search  # Ray, torch and MONAI

    benchmark_real_search()


def benchmark_searcher(sizes: Sequence[int] = SIZES) -> None:
    """Print what the searcher's events cost in studies of different size: they should not grow with it."""
    rows = {str(size): _event_seconds(size) for size in sizes}
    columns = ("CPU s in all", "ms per suggest", "ms per result", "ms per complete")
    show("the searcher by number of configurations, halving from 1 fold, 4 trials at once", columns, rows)


def _event_seconds(size: int) -> tuple[float, ...]:
    space = SPACE["enumerate"] | {"training.learning_rate": np.logspace(-5, -3, size // 24).tolist()}
    started = time.process_time()
    taken = event_seconds({"enumerate": space}, **HALVING, first_folds=1)
    in_all = time.process_time() - started
    return in_all, *(1000 * statistics.fmean(taken[name]) for name in EVENTS)


def event_seconds(space: dict[str, dict[str, Any]], **settings: object) -> dict[str, list[float]]:
    """CPU seconds of each of the searcher's events in a planted search, by the event's name."""
    config, seconds = planted_study(space, **settings), defaultdict[str, list[float]](list)

    class Timed(FoldSearcher):
        def __getattribute__(self, name: str) -> Any:
            found = super().__getattribute__(name)
            if name not in EVENTS:
                return found

            def timed(*args: Any, **options: Any) -> Any:
                started = time.process_time()
                try:
                    return found(*args, **options)
                finally:
                    seconds[name].append(time.process_time() - started)

            return timed

    with _quick_folder() as folder:
        search(config, PlantedTrials(0), StudyFolder(Path(folder)), workers=4, searcher=Timed)
    return seconds


def _quick_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)


def benchmark_planted_search(
    ways: Sequence[str] = tuple(WAYS), problems: int = PROBLEMS, picture: Path | None = PICTURE
) -> None:
    """Print epochs and the objective found, over planted problems, against the full grid's; draw how it was found."""
    searches = {name: [_search(seed, WAYS[name]) for seed in range(problems)] for name in ways}
    rows = {}
    for name, steps in searches.items():
        epochs, found = zip(*(each[-1] for each in steps), strict=True)
        within = sum(share >= 0.99 for share in found) / problems
        rows[name] = (statistics.fmean(epochs), statistics.fmean(found), min(found), within)
    columns = ("epochs / grid", "best / grid's", "worst", "share within 1 %")
    show(f"planted search, {problems} problems of 72 configurations × {FOLDS} folds", columns, rows)
    if picture is None:
        return
    grid = {"full grid": [_full_grid(seed) for seed in range(problems)]}
    _draw(grid | {label: searches[name] for name, label in PICTURED.items()}, picture)
    print(f"drawn: {picture.relative_to(REPOSITORY)}")


def _search(seed: int, way: dict[str, Any]) -> Steps:
    trials = PlantedTrials(seed)
    with _quick_folder() as folder:
        search(planted_study(**way), trials, StudyFolder(Path(folder)))
    return _steps(trials.finished, full_grid(seed), trials.trained)


def _full_grid(seed: int) -> Steps:
    objectives = full_grid(seed)
    keys = random.Random(seed).sample(list(objectives), len(objectives))
    each = GRID_EPOCHS // len(keys) // FOLDS
    finished = [(each * (number + 1), key) for number, key in enumerate(key for key in keys for _ in range(FOLDS))]
    return _steps(finished, objectives, GRID_EPOCHS)


def _steps(finished: Sequence[tuple[int, str]], objectives: dict[str, float], trained: int) -> Steps:
    steps, folds, best = [(0.0, 0.0)], Counter[str](), 0.0
    for epochs, key in finished:
        folds[key] += 1
        if folds[key] == FOLDS and objectives[key] > best:
            best = objectives[key]
            steps.append((epochs / GRID_EPOCHS, best / max(objectives.values())))
    return [*steps, (trained / GRID_EPOCHS, steps[-1][1])]


@paper_style
def _draw(searches: dict[str, list[Steps]], picture: Path) -> None:
    figure = Figure(figsize=(PAGE_WIDTH, 2.1), layout="constrained")
    panels = figure.subplots(1, len(searches), sharex=True, sharey=True)
    for axes, (name, runs), colour in zip(panels, searches.items(), COLOURS, strict=True):
        share = np.linspace(0, statistics.fmean(steps[-1][0] for steps in runs), 400)
        found = np.array([_at(steps, share) for steps in runs])
        low, middle, high = found.min(axis=0), np.median(found, axis=0), found.max(axis=0)
        axes.fill_between(share, low, high, color=colour, alpha=0.2, linewidth=0, step="post")
        axes.plot(share, middle, color=colour, drawstyle="steps-post")
        axes.plot(share[-1], middle[-1], "o", color=colour, markersize=4)
        axes.axhline(0.99, color=GREY, linewidth=0.7, linestyle=":")
        axes.set_title(name, loc="left", fontsize=8)
        axes.set(xlim=(0, 1.03), ylim=(0.9, 1.003), xticks=(0, 0.5, 1))
    panels[0].set_ylabel("best found / grid's best")
    figure.supxlabel("epochs trained / those of the full grid", fontsize=8)
    figure.savefig(picture, dpi=DPI)


def _at(steps: Steps, share: np.ndarray) -> np.ndarray:
    """The best found by each share of the epochs."""
    epochs, found = map(np.array, zip(*steps, strict=True))
    return found[np.searchsorted(epochs, share, side="right") - 1]
