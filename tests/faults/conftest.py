"""Things broken on purpose: minutes of real deaths, so `make faults` runs them and `make test` does not.

`FAULTS=full make faults` runs more rounds; `FAULTS_SEED=N` repeats the random moments of an earlier run.
"""

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.tiny_study import write_cohort
from support.victim import Victim

HERE = Path(__file__).parent
SEED = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(2**32))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.fixture
def rounds() -> int:
    """How many times as much as usual."""
    return 4 if os.environ.get("FAULTS") == "full" else 1


@pytest.fixture
def moments(request: pytest.FixtureRequest) -> random.Random:
    """When to kill; each test draws from its own sequence, so that one test can be repeated alone."""
    print(f"FAULTS_SEED={SEED} repeats these moments")  # pytest shows it if the test fails
    return random.Random(f"{SEED} {request.node.name}")


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
