"""Things broken on purpose: minutes of real deaths, so they run by `make faults` and not with the other tests.

`FAULTS=full make faults` runs more rounds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # for `victim`, which is no test

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


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    """The study as `rlvo search` leaves it when nothing happens to it."""
    root = tmp_path_factory.mktemp("undisturbed")
    write_cohort(root / "cohort")
    victim = Victim(root)
    victim.finish()
    return victim
