"""The tiny study with its ensemble registered, its hold-out not opened. A pytest plugin (tests/conftest.py loads it).

Tests that open the hold-out, register or write take a copy (`TinyStudy.copy`).
"""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from support.tiny_study import TinyStudy


@dataclass(frozen=True)
class Registered:
    """The study, and what `rlvo ensemble --json` printed."""

    study: TinyStudy
    shown: dict[str, Any]


@pytest.fixture(scope="session")
def registered(study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Registered:
    from support.commands import run

    own = study.copy(tmp_path_factory.mktemp("registered") / "work")
    return Registered(own, json.loads(run("ensemble", "tiny", "--workdir", own.workdir.path, "--json").stdout))
