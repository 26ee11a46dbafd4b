"""Real volumes, if they are there."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real volumes (RLVO_TEST_DATA, else ../shared/data)."""
    folder = Path(os.environ.get("RLVO_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real volumes: RLVO_TEST_DATA is not set and {folder} does not exist")
    return folder
