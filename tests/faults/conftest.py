"""Things broken on purpose: minutes of real deaths, so they run by `make faults` and not with the other tests.

`FAULTS=full make faults` runs more rounds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "tracking")]  # for `victim` and `mlflow_server`, which are no tests

from victim import Victim, write_cohort  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "FAULTS" not in os.environ:
        skip = pytest.mark.skip(reason="faults run by `make faults`")
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(skip)


@pytest.fixture
def rounds() -> int:
    """How many times as much as usual."""
    return 4 if os.environ.get("FAULTS") == "full" else 1


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path, str], None]]:
    """Mounts an empty disk of a size (`4m`) at a folder, which it makes."""
    mounted: list[Path] = []

    def mount(folder: Path, size: str) -> None:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    """The study as `rlvo search` leaves it when nothing happens to it."""
    root = tmp_path_factory.mktemp("undisturbed")
    write_cohort(root / "cohort")
    victim = Victim(root)
    victim.finish()
    return victim
