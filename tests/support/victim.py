"""A small real study in a work folder of its own, run by the command in a process that can be killed."""

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient

from rlvo.cohort.pseudonym import cohort_key, pseudonym
from rlvo.evaluation.predictions import read_predictions
from rlvo.files import file_sha256
from rlvo.training.records import BEST_WEIGHTS, EPOCHS, PREDICTIONS, RECORD, read_epochs, read_record
from support.tiny_study import GRID

EPOCH_COUNT, TRIALS = 40, 6
ARTIFACTS = {BEST_WEIGHTS, "validation_predictions.csv", "figures/learning-curves.svg", "figures/roc.svg"}
"""What MLflow has of a trial that finished."""
CONFIG = {
    "name": "victim",
    "grid": GRID.model_dump(),
    "cohort": {"predictors": ["age", "nihss"]},
    "model": {
        "backbone": "resnet18",
        "modality": "NCCT",
        "fusion": "none",
        "resnet": {"widths": [4, 4, 8, 8], "stem_kernel": 3},
    },
    "training": {"epochs": EPOCH_COUNT, "batch_size": 4, "optimizer": "adamw"},
    "space": {"enumerate": {"training.learning_rate": [1e-4, 1e-3, 1e-2]}},
    "folds": {"folds": 2, "test_fraction": 0.25},
}


class Victim:
    """The study in `root`, beside a cohort; `root`/work is its work folder."""

    def __init__(
        self, root: Path, cohort: Path | None = None, *, epochs: int = EPOCH_COUNT, name: str = "victim"
    ) -> None:
        self.root, self.cohort, self.work = root, cohort or root / "cohort", root / "work"
        self.name, self.folder = name, self.work / "studies" / name
        self.database = f"sqlite:///{self.work / 'mlflow.db'}"
        self.result: dict = {}
        content = {**CONFIG, "name": name, "training": {**CONFIG["training"], "epochs": epochs}}
        self._config, self._said = root / f"{name}.yaml", root / f"{name}-stderr.txt"
        self._config.write_text(json.dumps(content))

    def beside(self, root: Path, *, copied: bool = False, epochs: int = EPOCH_COUNT) -> "Victim":
        """Another work folder on the same cohort and prepared volumes; with what this one's study has, if `copied`."""
        other = Victim(root, self.cohort, epochs=epochs)
        other.work.mkdir(exist_ok=True)
        (other.work / "store").symlink_to(self.work / "store")
        if copied:
            shutil.copytree(self.folder, other.folder)
        return other

    def start(
        self, *options: str, through: Sequence[str] = (), environment: Mapping[str, str] = {}
    ) -> subprocess.Popen[str]:
        """`rlvo search`, in the background, in a process group of its own.

        Args:
            through: a command that runs it, in place of the shell.
            environment: more variables of it.
        """
        command = [*through, sys.executable, "-m", "rlvo.cli.main", "search", str(self._config), "--json"]
        where = ["--cohort", str(self.cohort / "cohort.csv"), "--workdir", str(self.work)]
        return subprocess.Popen(
            [*command, *where, *options],
            stdout=subprocess.PIPE,
            stderr=self._said.open("w"),
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )

    def wait(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Until it ends: its exit code and what it said beside its result."""
        output, _ = process.communicate(timeout=600)
        if process.returncode == 0:
            self.result = json.loads(output)
        return process.returncode, self._said.read_text()

    def finish(self, **how: Any) -> None:
        """Run to the end, which must be a good one. `how`: as for `start`."""
        code, said = self.wait(self.start(**how))
        assert code == 0, said
        assert len(self.ended()) == TRIALS

    def epochs(self) -> dict[Path, list[str]]:
        """The lines of every trial's epochs so far."""
        return {path.parent: path.read_text().splitlines() for path in self.folder.glob(f"trials/*/*/{EPOCHS}")}

    def epoch_count(self) -> int:
        """How many epochs have ended over all trials."""
        return sum(map(len, self.epochs().values()))

    def ended(self) -> dict[Path, dict[Path, tuple[int, int]]]:
        """The files of every ended trial, with what would change if one were written again."""
        trials = (path.parent for path in self.folder.glob(f"trials/*/*/{RECORD}"))
        return {trial: {path: stamp(path) for path in trial.rglob("*") if keeps(path)} for trial in trials}


def check_same(victim: Victim, other: Victim) -> None:
    """Bit for bit the same epochs, weights and predictions, and the same result."""
    for path in other.folder.glob(f"trials/*/*/{RECORD}"):
        trial = path.parent.relative_to(other.folder)
        one, two = read_record(victim.folder / trial), read_record(path.parent)
        assert one is not None
        assert two is not None
        assert one.model_copy(update={"seconds": two.seconds}) == two
    assert victim.result == other.result


def count_losses(victim: Victim, uri: str) -> tuple[int, int]:
    """How many trials, or epochs of them, are lost on disk or in MLflow, and how many are there twice."""
    client, lost, doubled = MlflowClient(uri), TRIALS - len(victim.ended()), 0
    experiment = client.get_experiment_by_name(victim.name)
    assert experiment is not None
    runs: dict[str, list[str]] = {}
    for run in client.search_runs([experiment.experiment_id], "tags.`rlvo.kind` = 'trial'"):
        runs.setdefault(run.data.tags["rlvo.identity"], []).append(run.info.run_id)
    for trial in victim.ended():
        record = read_record(trial)
        assert record is not None
        found, wanted = runs.get(record.identity.key, []), range(1, record.epochs + 1)
        steps = Counter(metric.step for run in found for metric in client.get_metric_history(run, "val/loss"))
        lines = Counter(epoch["epoch"] for epoch in read_epochs(trial))
        lost += (not found) + sum((not steps[epoch]) + (not lines[epoch]) for epoch in wanted)
        doubled += max(len(found) - 1, 0) + sum(number - 1 for count in (steps, lines) for number in count.values())
    return lost, doubled


def check_whole(victim: Victim, other: Victim) -> None:
    """After all that happened to it: nothing lost, nothing doubled, the same results, and all of them in MLflow."""
    lost, doubled = count_losses(victim, victim.database)
    print(f"lost {lost}, doubled {doubled}")
    assert (lost, doubled) == (0, 0)
    check_same(victim, other)
    check_mlflow(victim, victim.database)


def check_mlflow(victim: Victim, uri: str) -> None:
    """What the records say, and nothing twice: a run each, ended, with every figure of every epoch, and the files."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(victim.name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert Counter(run.data.tags["rlvo.kind"] for run in runs) == {"study": 1, "configuration": 3, "trial": TRIALS}
    of_trial = {run.data.tags["rlvo.identity"]: run.info.run_id for run in runs}
    pseudonymise = functools.partial(pseudonym, key=cohort_key(victim.cohort))
    for trial in victim.ended():
        record, epochs = read_record(trial), read_epochs(trial)
        assert record is not None
        run = of_trial[record.identity.key]
        for name in epochs[0].keys() - {"epoch"}:
            history = sorted((metric.step, metric.value) for metric in client.get_metric_history(run, name))
            assert history == [(epoch["epoch"], epoch[name]) for epoch in epochs]
        files = Path(client.download_artifacts(run, ""))
        assert file_sha256(files / BEST_WEIGHTS) == record.files[BEST_WEIGHTS]
        predictions = read_predictions(trial / PREDICTIONS)
        predictions["patient"] = predictions["patient"].map(pseudonymise)
        assert (files / "validation_predictions.csv").read_text() == predictions.to_csv(index=False)
        assert {path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()} == ARTIFACTS


def fill(disk: Path, *, leave: int = 0) -> Path:
    """Fill a disk but for so many bytes, with a file that is returned."""
    free, filler = os.statvfs(disk), disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # others may write meanwhile
        file.write(bytes(max(free.f_bavail * free.f_frsize - leave, 0)))
    return filler


def stamp(path: Path) -> tuple[int, int]:
    """Inode and time of writing."""
    return path.stat().st_ino, path.stat().st_mtime_ns


def keeps(path: Path) -> bool:
    """Whether it is a file that stays once its trial has ended."""
    return path.is_file() and "previous" not in (path.stem, path.parent.name)


def kill(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """End it with -9; the processes that it had started."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return children


def is_training(process: psutil.Process) -> bool:
    """Whether it is a worker of Ray that trains, or waits for a trial."""
    try:
        return "ray::ImplicitFunc" in process.cmdline()[0]
    except (psutil.Error, IndexError):
        return False


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until the condition holds, which must be before the process ends."""
    while not condition():
        assert process.poll() is None, "it ended before anything could happen to it"
        time.sleep(0.01)
